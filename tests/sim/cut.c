/* SPDX-License-Identifier: MIT */
#include "tests/sim/cut.h"

#include <stdlib.h>

#include "engine/base/assert.h"
#include "engine/edit/resize.h"
#include "engine/format/geometry.h"
#include "engine/format/header.h"
#include "engine/life/live_resize.h"
#include "tests/sim/snapshot.h"

#define TOP "/sim/top"

static bool is_possible(struct sim_run *run, const struct cow_header *h, uint64_t bytes)
{
	const struct sim_config *c = &run->script->config;
	return bytes && !c->bitmap && !c->data_file && !c->block_device && !c->sweep &&
	       sim_tool_backing_bytes(run) <= bytes && !(h->version == 2 && h->nr_snapshots);
}

static void resize_closed(struct sim_run *run, uint64_t bytes)
{
	const struct cow_resize_options options = { .bytes = bytes, .shrink = true };
	const struct cow_host_ops *ops = run->world.disk.host.ops;
	struct cow_error err = { 0 };
	struct cow_file *file;
	if (ops->open(&run->world.disk.host, TOP, COW_OPEN_WRITE, &file, &err) ||
	    cow_resize(&run->control->base, file, &options, &err))
		sim_fail("cut to %llu bytes: %s", (unsigned long long)bytes, err.text);
	ops->close(file);
	run->size_bytes = bytes;
	run->stats.resized++;
}

/* It is settled but for what a snapshot brought back. */
static void may_be_zeros(struct sim_model *m, uint64_t sector)
{
	const struct sim_cell *cell = &m->cells[sector];
	unsigned nr = 1;
	uint64_t *ids = calloc(cell->nr + 1, sizeof(*ids));
	cow_assert(ids);
	for (unsigned i = 0; i < cell->nr; i++)
		if (cell->versions[i].id)
			ids[nr++] = cell->versions[i].id;
	sim_model_set_any(m, sector, ids, nr);
	free(ids);
}

/* Zeros; or, in the rest of the last cluster, what was there if nobody may clear that. */
static void expect(struct sim_run *run, uint64_t bytes, uint64_t cluster_bytes)
{
	const struct sim_config *c = &run->script->config;
	bool may_stay = c->encrypt || c->compress || c->prepared || run->nr_taken;
	uint64_t end = (bytes + cluster_bytes - 1) & ~(cluster_bytes - 1);
	struct sim_model *m = &run->model;
	for (uint64_t s = bytes / SIM_SECTOR; s < m->nr_sectors; s++) {
		if (may_stay && s < end / SIM_SECTOR)
			may_be_zeros(m, s);
		else
			sim_model_set(m, s, 0);
	}
}

/* In the last quarter, and inside a cluster that holds something where there is one. */
static uint64_t pick_end(struct sim_run *run, uint64_t cluster_bytes)
{
	const struct sim_model *m = &run->model;
	uint64_t quarter = m->nr_sectors / 4 + 1;
	uint64_t first = m->nr_sectors - 1 - sim_below(&run->random, quarter);
	for (uint64_t s = first; s < m->nr_sectors; s++)
		if (s * SIM_SECTOR % cluster_bytes && m->cells[s].versions[0].id)
			return s * SIM_SECTOR;
	return first * SIM_SECTOR;
}

/* By which way it is resized. */
static bool cut(struct sim_run *run, void (*resize)(struct sim_run *, uint64_t))
{
	struct cow_header h = sim_snapshot_header(run);
	struct cow_geometry g;
	cow_geometry_init(&g, &h);
	uint64_t bytes = pick_end(run, g.cluster_bytes);
	if (!is_possible(run, &h, bytes))
		return false;
	resize(run, bytes);
	expect(run, bytes, g.cluster_bytes);
	return true;
}

bool sim_cut(struct sim_run *run)
{
	const struct sim_config *c = &run->script->config;
	if (!cut(run, resize_closed))
		return false;
	if (sim_chance(&run->random, 30))
		resize_closed(run, c->size_bytes);
	return true;
}

static void resize_live(struct sim_run *run, uint64_t bytes)
{
	const struct cow_resize_options options = { .bytes = bytes, .shrink = true };
	struct cow_error err = { 0 };
	uint64_t size_bytes, pause_ns;
	sim_loop_come(run->visitor);
	int ret = cow_image_resize(run->image, &run->visitor->base, &options, &size_bytes,
				   &pause_ns, &err);
	sim_loop_leave(run->visitor);
	if (ret || size_bytes != bytes)
		sim_fail("from %llu bytes to %llu: %s", (unsigned long long)run->size_bytes,
			 (unsigned long long)bytes, err.text);
	run->stats.resized += run->size_bytes != size_bytes;
	run->size_bytes = size_bytes;
}

bool sim_cut_live(struct sim_run *run)
{
	return cut(run, resize_live);
}

void sim_cut_grow_live(struct sim_run *run)
{
	resize_live(run, run->script->config.size_bytes);
}
