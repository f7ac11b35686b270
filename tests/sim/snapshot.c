/* SPDX-License-Identifier: MIT */
#include "tests/sim/snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/check.h"
#include "engine/snapshot.h"
#include "tests/sim/prepare.h"

#define TOP "/sim/top"

enum command { CREATE, APPLY, DELETE };

/* A command under way. */
struct change {
	enum command what;
	unsigned idx;     /* of the snapshot in run->taken */
	char name[16];
	int result;
	struct cow_error err;
};

/* ---- reading ---- */

static void verify_range(struct sim_run *run, struct cow_queue *queue, const struct sim_taken *t, uint64_t off, uint64_t n,
			 uint8_t *buf)
{
	uint8_t expect[SIM_SECTOR];
	int ret = cow_queue_do(queue, COW_OP_READ, 0, off, n, buf);
	if (run->world.powered_off)
		return;
	if (ret)
		sim_fail("snapshot %s: cannot read at %llu: %s", t->name, (unsigned long long)off, strerror(-ret));
	for (uint64_t at = 0; at < n; at += SIM_SECTOR) {
		uint64_t sector = (off + at) / SIM_SECTOR;
		sim_fill(expect, t->ids[sector], sector, 1);
		if (memcmp(expect, buf + at, SIM_SECTOR))
			sim_fail("snapshot %s: sector %llu changed", t->name, (unsigned long long)sector);
	}
}

static void verify_opened(struct sim_run *run, struct cow_image *image, const struct sim_taken *t)
{
	uint64_t size = run->script->config.size_bytes, piece = 256 << 10;
	struct cow_queue *queue;
	uint8_t *buf = cow_buf_alloc(piece);
	cow_assert(buf);
	if (cow_image_geometry(image)->size_bytes != size)
		sim_fail("snapshot %s: has another size", t->name);
	if (cow_queue_new(image, &run->control->base, 2, &queue))
		sim_fail("cannot make a queue");
	for (uint64_t off = 0; off < size && !run->world.powered_off; off += piece)
		verify_range(run, queue, t, off, size - off < piece ? size - off : piece, buf);
	cow_queue_free(queue);
	free(buf);
}

static void verify_one(struct sim_run *run, const struct sim_taken *t)
{
	const struct cow_open_options options = { .snapshot = t->name };
	struct cow_error err = { 0 };
	struct cow_image *image;
	int ret = cow_image_open(&run->world.host, &run->control->base, TOP, &options, &image, &err);
	if (ret && run->world.powered_off)
		return;
	if (ret)
		sim_fail("snapshot %s: cannot open: %s", t->name, err.text);
	verify_opened(run, image, t);
	cow_image_close(image, &run->control->base, &err);
}

void sim_snapshots_verify(struct sim_run *run)
{
	for (unsigned i = 0; i < run->nr_taken && !run->world.powered_off; i++)
		verify_one(run, &run->taken[i]);
}

void sim_snapshots_fini(struct sim_run *run)
{
	for (unsigned i = 0; i < run->nr_taken; i++)
		free(run->taken[i].ids);
	run->nr_taken = 0;
}

/* ---- changing ---- */

static void choose(struct sim_run *run, const struct sim_action *a, struct change *c)
{
	c->what = (enum command)(a->length % 3);
	if (!run->nr_taken)
		c->what = CREATE;
	else if (c->what == CREATE && run->nr_taken == SIM_MAX_TAKEN)
		c->what = DELETE;
	c->idx = c->what == CREATE ? run->nr_taken : a->queue % run->nr_taken;
	if (c->what == CREATE)
		snprintf(c->name, sizeof(c->name), "s%llu", (unsigned long long)run->next_id++);
	else
		memcpy(c->name, run->taken[c->idx].name, sizeof(c->name));
}

static void execute(struct sim_run *run, struct change *c)
{
	const struct cow_snapshot_date date = { .sec = 1 };
	const struct cow_snapshot_key key = { .text = c->name, .by = COW_SNAPSHOT_BY_NAME };
	const struct cow_host_ops *ops = run->world.host.ops;
	struct cow_loop *loop = &run->control->base;
	struct cow_file *file;
	c->result = ops->open(&run->world.host, TOP, COW_OPEN_WRITE, &file, &c->err);
	if (c->result)
		sim_fail("open for a snapshot: %s", c->err.text);
	if (c->what == CREATE)
		c->result = cow_snapshot_create(loop, file, c->name, &date, NULL, &c->err);
	else if (c->what == APPLY)
		c->result = cow_snapshot_apply(loop, file, &key, &c->err);
	else
		c->result = cow_snapshot_delete(loop, file, &key, &c->err);
	ops->close(file);
}

/* The model and the list as they are after it. */
static void take_effect(struct sim_run *run, const struct change *c)
{
	if (c->what == CREATE) {
		struct sim_taken *t = &run->taken[run->nr_taken++];
		memcpy(t->name, c->name, sizeof(t->name));
		t->ids = sim_snapshot_remember(&run->model);
	} else if (c->what == APPLY) {
		for (uint64_t s = 0; s < run->model.nr_sectors; s++)
			sim_model_set(&run->model, s, run->taken[c->idx].ids[s]);
	} else {
		free(run->taken[c->idx].ids);
		run->taken[c->idx] = run->taken[--run->nr_taken];
	}
	run->stats.snapshots++;
}

/* Every change moves the refcount table. */
static uint64_t generation(struct sim_run *run)
{
	uint8_t be[8];
	sim_store_read(&sim_disk_find(&run->world.disk, TOP)->now, 48, be, sizeof(be));
	return cow_load64_be(be);
}

/* Narrow refcounts may have no room for another reference. */
static bool may_refuse(const struct sim_run *run, const struct change *c)
{
	return c->result == -ERANGE && c->what != DELETE && run->script->config.refcount_bits < 16;
}

static void check(struct sim_run *run, const struct change *c)
{
	struct cow_check_options options = { 0 };
	struct cow_check_result result;
	struct cow_error err = { 0 };
	struct cow_file *file;
	if (run->world.host.ops->open(&run->world.host, TOP, 0, &file, &err))
		sim_fail("open for check: %s", err.text);
	int ret = cow_check_file(&run->control->base, file, &options, &result, &err);
	run->world.host.ops->close(file);
	if (ret)
		sim_fail("check after a snapshot command: %s", err.text);
	if (result.corruptions || result.check_errors || (!run->hidden_leaks && result.leaks > run->leaks))
		sim_fail("snapshot command %d (%s): %llu corruptions, %llu leaks (%llu known), %llu errors", c->what,
			 c->result ? c->err.text : "done", (unsigned long long)result.corruptions,
			 (unsigned long long)result.leaks, (unsigned long long)run->leaks,
			 (unsigned long long)result.check_errors);
}

void sim_snapshot_command(struct sim_run *run, const struct sim_action *a)
{
	struct sim_world *world = &run->world;
	struct change c = { 0 };
	uint64_t before = generation(run);
	choose(run, a, &c);
	world->crash_kind = a->flags & SIM_KILL ? SIM_CRASH_KILL : SIM_CRASH_POWER;
	world->power_off_at = a->offset ? world->events + a->offset : 0;
	execute(run, &c);
	world->power_off_at = 0;
	bool lost = world->powered_off;
	if (!lost && c.result && !may_refuse(run, &c))
		sim_fail("snapshot command %d: %s", c.what, c.err.text);
	if (!lost && !c.result) { /* it must be durable */
		world->crash_kind = SIM_CRASH_POWER;
		sim_world_power_off(world);
	}
	if (world->powered_off)
		sim_world_power_on(world);
	bool switched = generation(run) != before;
	if (!c.result && !switched)
		sim_fail("snapshot command %d: done, but it is not on disk", c.what);
	if (switched)
		take_effect(run, &c);
	check(run, &c);
	sim_snapshots_verify(run);
	if (lost)
		run->stats.snapshots_lost++;
}
