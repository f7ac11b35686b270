/* SPDX-License-Identifier: MIT */
/*
 * For requests that change an image faster than a live change catches up with them. Each round
 * beside them leaves less to the next one only if they change less meanwhile than it does. If not,
 * they are let in only between some of its batches: half of the time, then a quarter, then an eighth
 * of it. A request waits for some batches, and never for space or a pass.
 */
#ifndef COW_LIVE_BRAKE_H
#define COW_LIVE_BRAKE_H

#include <stdbool.h>

#include "engine/image/gate.h"

struct cow_live_brake {
	struct cow_gate *gate;
	unsigned level, nr; /* how hard; batches so far */
	bool on;	    /* the gate is shut by us */
};

void cow_live_brake_harder(struct cow_live_brake *brake);
/* Before each batch. */
void cow_live_brake_batch(struct cow_live_brake *brake);
/* Requests come in: before all that may wait. */
void cow_live_brake_off(struct cow_live_brake *brake);

#endif
