/* SPDX-License-Identifier: MIT */
/* The image's life on the simulated host: made, opened, closed, checked. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/check.h"
#include "engine/create.h"
#include "tests/sim/prepare.h"
#include "tests/sim/snapshot.h"
#include "tests/sim/run.h"

#define TOP "/sim/top"
#define BASE "/sim/base"
#define BASE_NAME "base"

/* ---- making ---- */

static void must(int ret, const struct cow_error *err, const char *what)
{
	if (ret)
		sim_fail("%s: %s (%s)", what, err->text, strerror(-ret));
}

static void settle_disk(struct sim_run *run)
{
	for (struct sim_file *f = run->world.disk.files; f; f = f->next) {
		for (struct sim_change *c = f->head; c; c = c->next)
			c->doubtful = false;
		sim_file_sync(f, SIM_NOT_DELIVERED, &run->world.random);
		if (f->head)
			sim_fail("a change outlived its owner");
	}
}

/* Writes patterns here and there; the model of the top image starts with them. */
static void write_base(struct sim_run *run, uint64_t bytes,
		       void (*put)(struct sim_run *, void *, uint64_t, uint64_t, const uint8_t *), void *ctx)
{
	uint64_t at = 0;
	while (at < bytes) {
		uint64_t n = SIM_SECTOR * (1 + sim_below(&run->random, 200));
		n = n < bytes - at ? n : bytes - at;
		if (sim_chance(&run->random, 60)) {
			uint8_t *buf = cow_buf_alloc(n);
			cow_assert(buf);
			uint64_t id = ++run->next_id;
			sim_fill(buf, id, at / SIM_SECTOR, n / SIM_SECTOR);
			put(run, ctx, at, n, buf);
			for (uint64_t s = 0; s < n / SIM_SECTOR; s++)
				if (at / SIM_SECTOR + s < run->model.nr_sectors)
					sim_model_set(&run->model, at / SIM_SECTOR + s, id);
			free(buf);
		}
		at += n;
	}
}

static void put_file(struct sim_run *run, void *ctx, uint64_t at, uint64_t n, const uint8_t *buf)
{
	cow_assert(pwrite(*(int *)ctx, buf, n, (off_t)at) == (ssize_t)n);
}

static void put_raw(struct sim_run *run, void *ctx, uint64_t at, uint64_t n, const uint8_t *buf)
{
	sim_file_write(ctx, at, buf, n, NULL);
}

static void put_queue(struct sim_run *run, void *ctx, uint64_t at, uint64_t n, const uint8_t *buf)
{
	int ret = cow_queue_do(ctx, COW_OP_WRITE, 0, at, n, (void *)(uintptr_t)buf);
	if (ret)
		sim_fail("cannot write the backing image: %s", strerror(-ret));
}

static void make_raw_base(struct sim_run *run, uint64_t bytes)
{
	struct sim_file *f = sim_disk_create(&run->world.disk, BASE);
	sim_file_resize(f, bytes, NULL);
	write_base(run, bytes, put_raw, f);
	for (struct sim_change *c = f->head; c; c = c->next)
		c->delivered_at = 1;
}

static void make_qcow2_base(struct sim_run *run, uint64_t bytes)
{
	struct cow_error err = { 0 };
	struct cow_create_options create = { .size_bytes = bytes, .has_size = true, .cluster_bytes = 4096 };
	struct cow_open_options options = { .writable = true };
	struct cow_image *image;
	struct cow_queue *queue;
	must(cow_create(&run->world.host, &run->control->base, BASE, &create, &err), &err, "create base");
	must(cow_image_open(&run->world.host, &run->control->base, BASE, &options, &image, &err), &err, "open base");
	must(cow_queue_new(image, &run->control->base, 1, &queue), &err, "queue of base");
	write_base(run, bytes, put_queue, queue);
	cow_queue_free(queue);
	must(cow_image_close(image, &run->control->base, &err), &err, "close base");
}

/* The contents as a raw file of the real host, made into an image there by qemu-img and taken from it. */
static void create_prepared(struct sim_run *run)
{
	const struct sim_config *c = &run->script->config;
	char dir[] = "/tmp/cow-sim-XXXXXX", raw[64];
	cow_assert(mkdtemp(dir));
	snprintf(raw, sizeof(raw), "%s/raw", dir);
	int fd = open(raw, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cow_assert(fd >= 0 && !ftruncate(fd, (off_t)c->size_bytes));
	if (c->prepared != SIM_PREPARED_EMPTY)
		write_base(run, c->size_bytes, put_file, &fd);
	close(fd);
	sim_prepare(c, dir, sim_disk_create(&run->world.disk, TOP));
	/* The reader of prepare.c knows standard entries only. */
	if ((c->prepared == SIM_PREPARED_SNAPSHOT || c->prepared == SIM_PREPARED_BOTH) && !c->ext_l2)
		run->snapshot = sim_snapshot_remember(&run->model);
}

static void create_own(struct sim_run *run)
{
	const struct sim_config *c = &run->script->config;
	struct cow_error err = { 0 };
	struct cow_create_options options = {
		.size_bytes = c->size_bytes,
		.has_size = true,
		.cluster_bytes = 1u << c->cluster_bits,
		.refcount_bits = (uint32_t)c->refcount_bits,
		.version = (uint32_t)c->version,
		.lazy_refcounts = c->lazy,
	};
	if (c->backing != SIM_BACKING_NONE) {
		options.backing_file = BASE_NAME;
		options.backing_format = c->backing == SIM_BACKING_RAW ? "raw" : "qcow2";
	}
	must(cow_create(&run->world.host, &run->control->base, TOP, &options, &err), &err, "create");
}

void sim_image_create(struct sim_run *run)
{
	const struct sim_config *c = &run->script->config;
	if (c->backing == SIM_BACKING_RAW)
		make_raw_base(run, c->backing_bytes);
	else if (c->backing == SIM_BACKING_QCOW2)
		make_qcow2_base(run, c->backing_bytes);
	if (c->prepared)
		create_prepared(run);
	else
		create_own(run);
	settle_disk(run);
}

/* ---- opening ---- */

static int open_queues(struct sim_run *run)
{
	for (unsigned q = 0; q < run->script->config.queues; q++) {
		int ret = cow_queue_new(run->image, &run->queue_loops[q]->base, (unsigned)run->script->config.depth,
					&run->queues[q]);
		if (ret)
			sim_fail("cannot make queue %u: %s", q, strerror(-ret));
	}
	return 0;
}

static void check_left_behind(struct sim_run *run);

int sim_image_open(struct sim_run *run)
{
	const struct sim_config *c = &run->script->config;
	struct cow_open_options options = {
		.writable = true,
		.no_discard = c->no_discard,
		.compress = c->compress,
		.buffered = c->buffered,
		.detect_zeroes = (enum cow_detect_zeroes)c->detect_zeroes,
		.cache_bytes = c->cache_bytes,
		.reserve_bytes = c->reserve_bytes,
	};
	struct cow_error err = { 0 };
	int ret = cow_image_open(&run->world.host, &run->control->base, TOP, &options, &run->image, &err);
	if (ret && (run->world.powered_off || sim_guest_excused(run))) {
		check_left_behind(run);
		return ret;
	}
	must(ret, &err, "open");
	return open_queues(run);
}

/* No timer, no message, no host operation may be left behind. */
static void check_left_behind(struct sim_run *run)
{
	while (sim_world_step(&run->world))
		;
	for (unsigned l = 0; l < run->world.nr_loops; l++)
		if (run->world.loops[l]->nr_pending)
			sim_fail("a host operation outlives the image");
	for (struct sim_file *f = run->world.disk.files; f; f = f->next)
		if (f->writers || f->readers)
			sim_fail("a file is still open after close: %s", f->path);
}

void sim_image_close(struct sim_run *run)
{
	struct cow_error err = { 0 };
	for (unsigned q = 0; q < run->script->config.queues; q++)
		cow_queue_free(run->queues[q]);
	int ret = cow_image_close(run->image, &run->control->base, &err);
	run->image = NULL;
	run->hidden_leaks |= sim_guest_excused(run);
	if (ret && !run->world.powered_off && !sim_guest_excused(run))
		sim_fail("close: %s (%s)", err.text, strerror(-ret));
	if (!ret && !run->world.powered_off)
		sim_model_flushed(&run->model, sim_model_tick(&run->model));
	else if (!run->world.powered_off)
		sim_model_crash(&run->model); /* what was not flushed may be gone */
	check_left_behind(run);
}

/* ---- checking ---- */

static void finding(void *ctx, const char *text)
{
	fprintf(stderr, "  check: %s\n", text);
}

/* False if power was lost meanwhile. */
static bool check_once(struct sim_run *run, enum cow_repair repair, bool print, struct cow_check_result *result)
{
	struct cow_error err = { 0 };
	struct cow_file *file;
	struct cow_check_options options = { .repair = repair, .finding = print ? finding : NULL };
	const struct cow_host_ops *ops = run->world.host.ops;
	memset(result, 0, sizeof(*result));
	must(ops->open(&run->world.host, TOP, repair ? COW_OPEN_WRITE : 0, &file, &err), &err, "open for check");
	int ret = cow_check_file(&run->control->base, file, &options, result, &err);
	ops->close(file);
	if (run->world.powered_off)
		return false;
	must(ret, &err, "check");
	return true;
}

static void repair(struct sim_run *run, enum cow_repair kind)
{
	struct cow_check_result result;
	if (!check_once(run, kind, false, &result) || !check_once(run, COW_REPAIR_NONE, true, &result))
		return;
	if (result.corruptions || result.leaks || result.check_errors)
		sim_fail("repair left %llu corruptions, %llu leaks, %llu errors", (unsigned long long)result.corruptions,
			 (unsigned long long)result.leaks, (unsigned long long)result.check_errors);
	run->leaks = 0;
	run->stats.repairs++;
}

/* With lazy refcounts they are right only after a clean close, or a repair. */
static bool check_lazy(struct sim_run *run)
{
	if (sim_chance(&run->random, 50))
		repair(run, COW_REPAIR_ALL);
	return run->world.powered_off;
}

/* clean: after a close without accidents nothing may have leaked. */
void sim_image_check(struct sim_run *run, bool clean)
{
	struct cow_check_result result;
	if (run->script->config.lazy && !clean && check_lazy(run))
		return;
	if (!check_once(run, COW_REPAIR_NONE, false, &result))
		return;
	bool sound = !result.corruptions && !result.check_errors;
	if (run->script->config.lazy && !clean)
		sound = true;
	if (!sound || (clean && !run->hidden_leaks && result.leaks > run->leaks)) {
		check_once(run, COW_REPAIR_NONE, true, &result);
		sim_fail("check: %llu corruptions, %llu leaks (%llu known), %llu errors",
			 (unsigned long long)result.corruptions, (unsigned long long)result.leaks,
			 (unsigned long long)run->leaks, (unsigned long long)result.check_errors);
	}
	sim_snapshots_verify(run);
	if (run->snapshot)
		sim_snapshot_verify(sim_disk_find(&run->world.disk, TOP), run->snapshot, run->model.nr_sectors);
	run->leaks = result.leaks;
	if (result.leaks && sim_chance(&run->random, 50))
		repair(run, COW_REPAIR_LEAKS);
}
