/* SPDX-License-Identifier: MIT */
#include "tests/sim/expected.h"

#include "tests/sim/run.h"

static uint64_t mix(uint64_t hash, uint64_t value)
{
	return sim_mix(hash ^ value) + 0x9e3779b97f4a7c15ull;
}

static bool is_new(const struct sim_cell *cell, unsigned idx)
{
	for (unsigned i = 0; i < idx; i++)
		if (cell->versions[i].lost == SIM_NEVER &&
		    cell->versions[i].id == cell->versions[idx].id)
			return false;
	return cell->versions[idx].lost == SIM_NEVER;
}

/* What may survive, in whatever order. */
static uint64_t model(const struct sim_model *m)
{
	uint64_t hash = 0;
	for (uint64_t s = 0; s < m->nr_sectors; s++) {
		uint64_t sum = 0;
		for (unsigned i = 0; i < m->cells[s].nr; i++)
			sum += is_new(&m->cells[s], i) ? sim_mix(m->cells[s].versions[i].id + 1)
						       : 0;
		hash = mix(hash, sum);
	}
	return hash;
}

static uint64_t shot(const struct sim_shot *shot)
{
	uint64_t hash = 1;
	for (uint64_t s = 0; shot && s < shot->nr_sectors; s++) {
		uint64_t sum = 0;
		for (unsigned i = 0; i < shot->cells[s].nr; i++)
			sum += sim_mix(shot->cells[s].ids[i] + 1);
		hash = mix(hash, sum);
	}
	return shot ? hash : 0;
}

static uint64_t name(const char *text)
{
	uint64_t hash = 0;
	while (*text)
		hash = mix(hash, (uint8_t)*text++);
	return hash;
}

static uint64_t snapshots(const struct sim_run *run)
{
	uint64_t hash = run->nr_taken;
	for (unsigned i = 0; i < run->nr_taken; i++) {
		hash = mix(hash, name(run->taken[i].name));
		hash = mix(hash, shot(run->taken[i].shot));
	}
	if (!run->live.in_doubt)
		return hash;
	hash = mix(hash, 1 + run->live.what);
	hash = mix(hash, name(run->live.name));
	return mix(hash, shot(run->live.shot));
}

uint64_t sim_expected_hash(const struct sim_run *run)
{
	uint64_t hash = mix(model(&run->model), snapshots(run));
	hash = mix(hash, sim_bitmap_hash(run));
	hash = mix(hash, sim_tool_hash(run));
	return mix(hash, run->hidden_leaks);
}
