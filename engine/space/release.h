/* SPDX-License-Identifier: MIT */
/* The task that empties the quarantine; see quarantine.h for what it does and why in that order. */
#ifndef COW_RELEASE_H
#define COW_RELEASE_H

#include "engine/space/quarantine.h"

void cow_release_init(struct cow_quarantine *q);
/* q->running was set by the caller. Any thread that owns loop. */
void cow_release_start(struct cow_quarantine *q, struct cow_loop *loop);

#endif
