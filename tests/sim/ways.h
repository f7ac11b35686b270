/* SPDX-License-Identifier: MIT */
/*
 * What the next loss of power may leave, way by way, without losing it: which of the changes since
 * the last completed sync, and of the operations in flight, come through, whole or in half.
 *
 * Of few changes every subset is tried; of more: none, all, each of the oldest and the newest alone,
 * all but that one. Then each half of a change of several sectors, with all others; then one where
 * chance decides sector by sector: the same chance for the same changes.
 */
#ifndef SIM_WAYS_H
#define SIM_WAYS_H

#include "tests/sim/world.h"

struct sim_way_change {
	struct memory_file *file;
	struct memory_change change; /* its data are the file's, or: */
	uint8_t *gathered;	     /* of one in flight: owned */
};

struct sim_way_extent {
	struct memory_file *file;
	uint64_t start, end;
};

struct sim_ways {
	struct sim_world *world;
	struct sim_way_change *changes;
	struct sim_way_extent *extents; /* what differs from one way to another, in order, apart */
	unsigned nr_changes, max_changes, nr_extents, nr_torn;
	uint64_t rest; /* sum of what never differs */
	unsigned nr;   /* of ways */
};

/* The files' `left` are used from now on until the end. */
void sim_ways_begin(struct sim_ways *ways, struct sim_world *world);
void sim_ways_end(struct sim_ways *ways);
/* Each file's `left` becomes what way `idx` leaves of it; returns its hash: equal means the same. */
uint64_t sim_ways_leave(struct sim_ways *ways, unsigned idx);
/* Power is off: what way `idx` leaves is all there is. */
void sim_ways_settle(struct sim_ways *ways, unsigned idx);

#endif
