/* SPDX-License-Identifier: MIT */
#include "tests/sim/shot.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"

static void add(struct sim_shot_cell *cell, uint64_t id)
{
	for (unsigned i = 0; i < cell->nr; i++)
		if (cell->ids[i] == id)
			return;
	cell->ids = realloc(cell->ids, (cell->nr + 1) * sizeof(*cell->ids));
	cow_assert(cell->ids);
	cell->ids[cell->nr++] = id;
}

static void take_cell(struct sim_shot_cell *to, const struct sim_cell *cell, uint64_t before)
{
	for (unsigned i = 0; i < cell->nr; i++) {
		const struct sim_version *v = &cell->versions[i];
		bool parked = v->end == SIM_NEVER && v->start > before;
		if (!parked && v->died == SIM_NEVER)
			add(to, v->id);
	}
}

struct sim_shot *sim_shot_take(const struct sim_model *m, uint64_t before)
{
	struct sim_shot *shot = calloc(1, sizeof(*shot));
	cow_assert(shot);
	shot->nr_sectors = m->nr_sectors;
	shot->cells = calloc(m->nr_sectors, sizeof(*shot->cells));
	cow_assert(shot->cells);
	for (uint64_t s = 0; s < m->nr_sectors; s++)
		take_cell(&shot->cells[s], &m->cells[s], before);
	return shot;
}

void sim_shot_free(struct sim_shot *shot)
{
	if (!shot)
		return;
	for (uint64_t s = 0; s < shot->nr_sectors; s++)
		free(shot->cells[s].ids);
	free(shot->cells);
	free(shot);
}

bool sim_shot_read_ok(struct sim_shot *shot, uint64_t sector, const uint8_t *buf)
{
	struct sim_shot_cell *cell = &shot->cells[sector];
	uint8_t expect[SIM_SECTOR];
	for (unsigned i = 0; i < cell->nr; i++) {
		sim_fill(expect, cell->ids[i], sector, 1);
		if (memcmp(expect, buf, SIM_SECTOR))
			continue;
		cell->ids[0] = cell->ids[i];
		cell->nr = 1;
		return true;
	}
	return false;
}

void sim_shot_apply(const struct sim_shot *shot, struct sim_model *m)
{
	for (uint64_t s = 0; s < shot->nr_sectors; s++)
		sim_model_set_any(m, s, shot->cells[s].ids, shot->cells[s].nr);
}
