/* SPDX-License-Identifier: MIT */
#include "tests/sim/snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/check/check.h"
#include "engine/edit/resize.h"
#include "engine/format/geometry.h"
#include "engine/life/image.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "engine/snapshot/snapshot.h"
#include "tests/sim/prepare.h"

#define TOP "/sim/top"

/* ---- reading ---- */

static void verify_range(struct sim_run *run, struct cow_queue *queue, const struct sim_taken *t,
			 uint64_t off, uint64_t n, uint8_t *buf)
{
	uint64_t injected = run->world.faults.nr_injected;
	int ret = cow_queue_do(queue, COW_OP_READ, 0, off, n, buf);
	if (run->world.powered_off || (ret && run->world.faults.nr_injected > injected))
		return;
	if (ret)
		sim_fail("snapshot %s: cannot read at %llu: %s", t->name, (unsigned long long)off,
			 strerror(-ret));
	for (uint64_t at = 0; at < n; at += SIM_SECTOR) {
		uint64_t sector = (off + at) / SIM_SECTOR;
		if (!sim_shot_read_ok(t->shot, sector, buf + at))
			sim_fail("snapshot %s: sector %llu changed", t->name,
				 (unsigned long long)sector);
	}
}

static void verify_opened(struct sim_run *run, struct cow_image *image, const struct sim_taken *t)
{
	uint64_t size = run->script->config.size_bytes, piece = 256 << 10;
	struct cow_queue *queue;
	uint8_t *buf = cow_buf_alloc(size < piece ? size : piece);
	cow_assert(buf);
	if (cow_image_geometry(image)->size_bytes != t->size_bytes)
		sim_fail("snapshot %s: has another size", t->name);
	if (cow_queue_new(image, &run->control->base, 2, &queue))
		sim_fail("cannot make a queue");
	for (uint64_t off = 0; off < size && !run->world.powered_off; off += piece)
		verify_range(run, queue, t, off, size - off < piece ? size - off : piece, buf);
	cow_queue_free(queue);
	free(buf);
}

void sim_snapshot_verify_taken(struct sim_run *run, const struct sim_taken *t)
{
	static const struct cow_limits little = { .bounces = 1, .packed = 1, .inflated = 4 };
	struct cow_open_options options = { .snapshot = t->name,
					    .cache_bytes = 65536,
					    .limits = &little };
	uint64_t injected = run->world.faults.nr_injected;
	struct cow_error err = { 0 };
	struct cow_image *image;
	sim_image_keys(run, &options);
	int ret = cow_image_open(&run->world.disk.host, &run->control->base, TOP, &options, &image,
				 &err);
	if (ret && (run->world.powered_off || run->world.faults.nr_injected > injected))
		return;
	if (ret)
		sim_fail("snapshot %s: cannot open: %s", t->name, err.text);
	verify_opened(run, image, t);
	COW_IGNORE(cow_image_close(image, &run->control->base, &err));
}

void sim_snapshots_verify(struct sim_run *run)
{
	for (unsigned i = 0; i < run->nr_taken && !run->world.powered_off; i++)
		sim_snapshot_verify_taken(run, &run->taken[i]);
}

void sim_snapshots_fini(struct sim_run *run)
{
	for (unsigned i = 0; i < run->nr_taken; i++)
		sim_shot_free(run->taken[i].shot);
	run->nr_taken = 0;
	sim_shot_free(run->live.shot);
}

/* ---- changing ---- */

struct cow_header sim_snapshot_header(struct sim_run *run)
{
	struct cow_header h;
	struct cow_error err = { 0 };
	uint8_t sector[512];
	memory_content_read(&memory_disk_find(&run->world.disk, TOP)->now, 0, sector,
			    sizeof(sector));
	if (cow_header_decode(sector, sizeof(sector), &h, &err))
		sim_fail("the header is broken: %s", err.text);
	return h;
}

/* What one L1 entry leads to, or an L1 table's cluster full of them. */
static uint64_t pick_growth(struct sim_run *run, const struct cow_geometry *g)
{
	bool cluster = g->cluster_bits <= 12 && sim_chance(&run->random, 50);
	return (cluster ? g->cluster_bytes / 8ull : 1) << (g->l2_bits + g->cluster_bits);
}

/*
 * Larger by L1 entries, so that the table moves, or by a sector; or as it was at first. It is left
 * out where it would be refused.
 */
static bool choose_size(struct sim_run *run, const struct sim_action *a, bool closed,
			struct sim_command *c)
{
	const struct sim_config *config = &run->script->config;
	struct cow_header h = sim_snapshot_header(run);
	struct cow_geometry g;
	if (config->bitmap || config->data_file || sim_tool_backing_bytes(run) > run->size_bytes ||
	    (h.version == 2 && h.nr_snapshots))
		return false;
	cow_geometry_init(&g, &h);
	c->what = SIM_SNAPSHOT_RESIZE;
	c->size_bytes = run->size_bytes + (a->queue % 2 ? pick_growth(run, &g) : SIM_SECTOR);
	if (run->size_bytes > config->size_bytes && (closed || a->queue % 2 == 0))
		c->size_bytes = config->size_bytes;
	return true;
}

void sim_snapshot_choose(struct sim_run *run, const struct sim_action *a, bool closed,
			 struct sim_command *c)
{
	if (a->length == SIM_SNAPSHOT_RESIZE && choose_size(run, a, closed, c))
		return;
	c->what = a->length % 3;
	if (!run->nr_taken)
		c->what = SIM_SNAPSHOT_CREATE;
	else if (c->what == SIM_SNAPSHOT_CREATE && run->nr_taken == SIM_MAX_TAKEN)
		c->what = SIM_SNAPSHOT_DELETE;
	if (c->what == SIM_SNAPSHOT_APPLY &&
	    run->bitmap.dirty) /* refused: the bitmap would be wrong */
		c->what = SIM_SNAPSHOT_DELETE;
	bool create = c->what == SIM_SNAPSHOT_CREATE;
	c->idx = create ? run->nr_taken : a->queue % run->nr_taken;
	if (create)
		snprintf(c->name, sizeof(c->name), "s%llu", (unsigned long long)run->next_id++);
	else
		memcpy(c->name, run->taken[c->idx].name, sizeof(c->name));
}

int sim_snapshot_execute(struct sim_command *c, struct cow_loop *loop, struct cow_file *file,
			 struct cow_error *err)
{
	const struct cow_snapshot_date date = { .sec = 1 };
	const struct cow_snapshot_key key = { .text = c->name, .by = COW_SNAPSHOT_BY_NAME };
	const struct cow_resize_options resize = { .bytes = c->size_bytes, .shrink = true };
	if (c->what == SIM_SNAPSHOT_RESIZE)
		return cow_resize(loop, file, &resize, err);
	if (c->what == SIM_SNAPSHOT_CREATE)
		return cow_snapshot_create(loop, file, c->name, &date, NULL, err);
	if (c->what == SIM_SNAPSHOT_APPLY)
		return cow_snapshot_apply(loop, file, &key, err);
	return cow_snapshot_delete(loop, file, &key, err);
}

static void execute(struct sim_run *run, struct sim_command *c)
{
	const struct cow_host_ops *ops = run->world.disk.host.ops;
	struct cow_file *file;
	c->result = ops->open(&run->world.disk.host, TOP, COW_OPEN_WRITE, &file, &c->err);
	if (c->result)
		sim_fail("open for a snapshot: %s", c->err.text);
	if (c->what == SIM_SNAPSHOT_CREATE)
		c->shot = sim_shot_take(&run->model, UINT64_MAX);
	c->result = sim_snapshot_execute(c, &run->control->base, file, &c->err);
	ops->close(file);
}

void sim_snapshot_take_effect(struct sim_run *run, struct sim_command *c)
{
	if (c->what == SIM_SNAPSHOT_CREATE) {
		struct sim_taken *t = &run->taken[run->nr_taken++];
		memcpy(t->name, c->name, sizeof(t->name));
		t->shot = c->shot;
		t->size_bytes = run->size_bytes;
		c->shot = NULL;
	} else if (c->what == SIM_SNAPSHOT_APPLY) {
		sim_shot_apply(run->taken[c->idx].shot, &run->model);
		run->size_bytes = run->taken[c->idx].size_bytes;
	} else if (c->what == SIM_SNAPSHOT_RESIZE) {
		run->size_bytes = c->size_bytes;
		run->stats.resized++;
	} else {
		sim_shot_free(run->taken[c->idx].shot);
		run->taken[c->idx] = run->taken[--run->nr_taken];
	}
	run->stats.snapshots++;
}

/* Every change moves the refcount table. */
static uint64_t generation(struct sim_run *run)
{
	uint8_t be[8];
	memory_content_read(&memory_disk_find(&run->world.disk, TOP)->now, 48, be, sizeof(be));
	return cow_load64_be(be);
}

/* Narrow refcounts may have no room for another reference, a block device none for the tables. */
bool sim_snapshot_may_refuse(struct sim_run *run, const struct sim_command *c)
{
	if (c->result == -ENOSPC && run->script->config.block_device)
		return true;
	return c->result == -ERANGE && c->what != SIM_SNAPSHOT_DELETE &&
	       sim_snapshot_header(run).refcount_order < 4;
}

static void check(struct sim_run *run, const struct sim_command *c)
{
	struct cow_check_options options = { 0 };
	struct cow_check_result result;
	struct cow_error err = { 0 };
	struct cow_file *file;
	if (run->world.disk.host.ops->open(&run->world.disk.host, TOP, 0, &file, &err))
		sim_fail("open for check: %s", err.text);
	int ret = cow_check_file(&run->control->base, file, &options, &result, &err);
	run->world.disk.host.ops->close(file);
	if (ret)
		sim_fail("check after a snapshot command: %s", err.text);
	if (result.corruptions || result.check_errors ||
	    (!run->hidden_leaks && result.leaks > run->leaks))
		sim_fail("snapshot command %d (%s): %llu corruptions, %llu leaks (%llu known), "
			 "%llu errors",
			 c->what, c->result ? c->err.text : "done",
			 (unsigned long long)result.corruptions, (unsigned long long)result.leaks,
			 (unsigned long long)run->leaks, (unsigned long long)result.check_errors);
}

void sim_snapshot_command(struct sim_run *run, const struct sim_action *a)
{
	struct sim_world *world = &run->world;
	struct sim_command c = { 0 };
	uint64_t before = generation(run);
	sim_snapshot_choose(run, a, true, &c);
	world->crash_kind = a->flags & SIM_KILL ? MEMORY_CRASH_KILL : MEMORY_CRASH_POWER;
	world->power_off_at = a->offset ? world->events + a->offset : 0;
	execute(run, &c);
	world->power_off_at = 0;
	bool lost = world->powered_off;
	if (!lost && c.result && !sim_snapshot_may_refuse(run, &c))
		sim_fail("snapshot command %d: %s", c.what, c.err.text);
	if (!lost && !c.result) { /* it must be durable */
		world->crash_kind = MEMORY_CRASH_POWER;
		sim_world_power_off(world);
	}
	if (world->powered_off)
		sim_world_power_on(world);
	bool switched = generation(run) != before;
	if (!c.result && !switched)
		sim_fail("snapshot command %d: done, but it is not on disk", c.what);
	if (switched)
		sim_snapshot_take_effect(run, &c);
	sim_shot_free(c.shot);
	check(run, &c);
	sim_snapshots_verify(run);
	if (lost)
		run->stats.snapshots_lost++;
}
