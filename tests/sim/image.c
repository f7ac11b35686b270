/* SPDX-License-Identifier: MIT */
/* The image's life on the simulated host: opened, closed, checked. make.c makes it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/check/check.h"
#include "engine/format/format.h"
#include "engine/life/image.h"
#include "engine/life/image_memory.h"
#include "engine/request/queue.h"
#include "tests/sim/outlive.h"
#include "tests/sim/prepare.h"
#include "tests/sim/snapshot.h"
#include "tests/sim/run.h"

#define TOP "/sim/top"
#define DATA "/sim/data"

static void must(int ret, const struct cow_error *err, const char *what)
{
	if (ret)
		sim_fail("%s: %s (%s)", what, err->text, strerror(-ret));
}

/* ---- opening ---- */

struct cow_queue *sim_image_queue(struct sim_run *run, unsigned q)
{
	if (run->queues[q])
		return run->queues[q];
	sim_loop_come(run->queue_loops[q]);
	int ret = cow_queue_new(run->image, &run->queue_loops[q]->base,
				(unsigned)run->script->config.depth, &run->queues[q]);
	if (ret)
		sim_fail("cannot make queue %u: %s", q, strerror(-ret));
	return run->queues[q];
}

static int open_queues(struct sim_run *run)
{
	/* each takes memory: what a swept state needs is made when it is needed */
	for (unsigned q = 0; q < run->script->config.queues && !run->swept; q++)
		sim_image_queue(run, q);
	return 0;
}

static void end_queue(struct sim_run *run, unsigned q)
{
	struct cow_queue *queue = run->queues[q];
	if (!queue || run->leaving[q])
		return;
	run->queues[q] = NULL;
	run->leaving[q] = true;
	cow_queue_free(queue);
	run->leaving[q] = false;
	sim_loop_leave(run->queue_loops[q]);
}

void sim_image_queue_leaves(struct sim_run *run, unsigned q)
{
	for (unsigned i = 0; i < SIM_MAX_DEPTH; i++)
		if (run->ops[q][i].busy)
			return;
	end_queue(run, q);
}

static void check_left_behind(struct sim_run *run);

void sim_image_keys(const struct sim_run *run, struct cow_open_options *options)
{
	static const char *const roots[] = { "/sim" };
	options->backing_roots = roots; /* a block device has none of its own */
	options->nr_backing_roots = 1;
	options->data_roots = roots;
	options->nr_data_roots = 1;
	options->secrets = (const struct cow_secret *const *)&run->secret;
	options->nr_secrets = 1;
	options->write_legacy_aes = true;
	options->data_is_raw = true;
}

static void want_memory(void *ctx)
{
	((struct sim_run *)ctx)->wants_memory = true;
}

/* What the daemon's memory thread does, at any moment. The second look finds nothing touched. */
void sim_image_memory(struct sim_run *run)
{
	if (!run->image || !run->script->config.limits.cache_least)
		return;
	if (run->wants_memory) {
		run->wants_memory = false;
		cow_image_grow(run->image);
	} else if (run->action_idx % 5 == 0) {
		COW_IGNORE(cow_image_rest(run->image));
		COW_IGNORE(cow_image_rest(run->image));
	}
}

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
		.limits = &c->limits,
		.want_memory = c->limits.cache_least ? want_memory : NULL,
		.want_memory_ctx = run,
		.outlive_fd = sim_outlive_fd(run),
	};
	struct cow_error err = { 0 };
	sim_image_keys(run, &options);
	int ret = cow_image_open(&run->world.disk.host, &run->control->base, TOP, &options,
				 &run->image, &err);
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
	for (struct memory_file *f = run->world.disk.files; f; f = f->next)
		if (f->writers || f->readers)
			sim_fail("a file is still open after close: %s", f->path);
}

void sim_image_close(struct sim_run *run)
{
	struct cow_error err = { 0 };
	for (unsigned q = 0; q < run->script->config.queues; q++)
		end_queue(run, q);
	run->image_failed = cow_image_failure(run->image);
	int ret = cow_image_close(run->image, &run->control->base, &err);
	run->image = NULL;
	run->close_failed = ret;
	run->hidden_leaks |= sim_guest_may_leak(run) || (ret && !run->world.powered_off);
	if (ret && !run->world.powered_off && !sim_guest_excused(run))
		sim_fail("close: %s (%s)", err.text, strerror(-ret));
	if (!ret && !run->world.powered_off)
		sim_model_flushed(&run->model, sim_model_tick(&run->model));
	else if (!run->world.powered_off)
		sim_model_crash(&run->model); /* what was not flushed may be gone */
	if (!run->world.powered_off)
		sim_outlive_done(run);
	check_left_behind(run);
}

/* ---- checking ---- */

static void finding(void *ctx, const char *text)
{
	fprintf(stderr, "  check: %s\n", text);
}

/* False if power was lost meanwhile. */
static bool check_once(struct sim_run *run, enum cow_repair repair, bool print,
		       struct cow_check_result *result)
{
	struct cow_error err = { 0 };
	struct cow_file *file;
	struct cow_check_options options = { .repair = repair, .finding = print ? finding : NULL };
	const struct cow_host_ops *ops = run->world.disk.host.ops;
	memset(result, 0, sizeof(*result));
	must(ops->open(&run->world.disk.host, TOP, repair ? COW_OPEN_WRITE : 0, &file, &err), &err,
	     "open for check");
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
	if (!check_once(run, kind, false, &result) ||
	    !check_once(run, COW_REPAIR_NONE, true, &result))
		return;
	if (result.corruptions || result.leaks || result.check_errors)
		sim_fail("repair left %llu corruptions, %llu leaks, %llu errors",
			 (unsigned long long)result.corruptions, (unsigned long long)result.leaks,
			 (unsigned long long)result.check_errors);
	run->leaks = 0;
	run->stats.repairs++;
}

/* At any time, a crash included, the data file by itself is the disk. */
static void verify_raw(struct sim_run *run)
{
	const struct memory_file *f = memory_disk_find(&run->world.disk, DATA);
	uint8_t buf[SIM_SECTOR];
	char text[700];
	if (run->script->config.data_file != SIM_DATA_RAW)
		return;
	for (uint64_t s = 0; s < run->model.nr_sectors; s++) {
		memory_content_read(&f->now, s * SIM_SECTOR, buf, sizeof(buf));
		uint64_t start = sim_model_tick(&run->model);
		if (!sim_model_read_ok(&run->model, start, s, 1, buf, text, sizeof(text)))
			sim_fail("raw data file: %s", text);
	}
}

static bool is_lazy(struct sim_run *run)
{
	return sim_snapshot_header(run).compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
}

/* With lazy refcounts they are right only after a clean close, or a repair. */
static bool check_lazy(struct sim_run *run)
{
	if (sim_chance(&run->random, 50) && !sim_outlive_pending(run))
		repair(run, COW_REPAIR_ALL);
	return run->world.powered_off;
}

/* clean: after a close without accidents nothing may have leaked. */
void sim_image_check(struct sim_run *run, bool clean)
{
	struct cow_check_result result;
	if (is_lazy(run) && !clean && check_lazy(run))
		return;
	if (!check_once(run, COW_REPAIR_NONE, false, &result))
		return;
	bool sound = !result.corruptions && !result.check_errors;
	if (is_lazy(run) && !clean)
		sound = true;
	if (!sound || (clean && !run->hidden_leaks && result.leaks > run->leaks)) {
		check_once(run, COW_REPAIR_NONE, true, &result);
		sim_fail("check: %llu corruptions, %llu leaks (%llu known), %llu errors",
			 (unsigned long long)result.corruptions, (unsigned long long)result.leaks,
			 (unsigned long long)run->leaks, (unsigned long long)result.check_errors);
	}
	verify_raw(run);
	sim_bitmap_look(run, clean);
	sim_snapshots_verify(run);
	if (run->snapshot)
		sim_snapshot_verify(memory_disk_find(&run->world.disk, TOP), run->snapshot,
				    run->model.nr_sectors);
	run->leaks = result.leaks;
	if (result.leaks && sim_chance(&run->random, 50) && !sim_outlive_pending(run))
		repair(run, COW_REPAIR_LEAKS);
}
