/* SPDX-License-Identifier: MIT */
/*
 * What a snapshot may hold: the model's contents at the moment it was taken. A sector whose last
 * writer was a discard or failed may hold one of several things; the first reader settles which,
 * since a snapshot never changes.
 */
#ifndef SIM_SHOT_H
#define SIM_SHOT_H

#include "tests/sim/model.h"

struct sim_shot_cell {
	uint64_t *ids;
	unsigned nr;
};

struct sim_shot {
	struct sim_shot_cell *cells;
	uint64_t nr_sectors;
};

/*
 * Requests that began after `before` (when the freeze began) and have not ended are not in it.
 * Earlier ones may be: an older freeze may have parked them, and this one again.
 */
struct sim_shot *sim_shot_take(const struct sim_model *m, uint64_t before);
void sim_shot_free(struct sim_shot *shot);
/* May the snapshot hold what buf holds (one sector)? Settles. */
bool sim_shot_read_ok(struct sim_shot *shot, uint64_t sector, const uint8_t *buf);
/* The disk becomes what the snapshot holds. */
void sim_shot_apply(const struct sim_shot *shot, struct sim_model *m);

#endif
