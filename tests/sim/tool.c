/* SPDX-License-Identifier: MIT */
/* See tool.h. In this order: what is on disk; what is to be done; doing it; judging it. */
#include "tests/sim/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/check/check.h"
#include "engine/edit/compact.h"
#include "engine/edit/resize.h"
#include "engine/format/geometry.h"
#include "engine/format/format.h"
#include "engine/tool/backing_commit.h"
#include "engine/tool/backing_rebase.h"
#include "engine/tool/lane.h"
#include "tests/sim/run.h"
#include "tests/sim/snapshot.h"
#include "tests/sim/sweep.h"

#define TOP "/sim/top"
#define DEEP "/sim/deep"
#define FOLDER "/sim/"

/* ---- what is on disk ---- */

const char *sim_tool_path(const struct sim_run *run, const char *which)
{
	static char paths[2][SIM_NAME_BYTES + 8];
	char *path = paths[!strcmp(which, "base")];
	int n = snprintf(path, sizeof(paths[0]), FOLDER "%s", which);
	for (; n < (int)run->script->config.name_bytes; n++)
		path[n] = '-';
	path[n] = '\0';
	return path;
}

const char *sim_tool_name(const struct sim_run *run, const char *which)
{
	return sim_tool_path(run, which) + strlen(FOLDER);
}

void sim_tool_backing(struct sim_run *run, char name[SIM_NAME_BYTES])
{
	struct cow_header h = sim_snapshot_header(run);
	memset(name, 0, SIM_NAME_BYTES);
	if (!h.backing_name_off)
		return;
	if (h.backing_name_bytes >= SIM_NAME_BYTES)
		sim_fail("the backing file's name has %u bytes", h.backing_name_bytes);
	memory_content_read(&memory_disk_find(&run->world.disk, TOP)->now, h.backing_name_off, name,
			    h.backing_name_bytes);
}

static bool is_base(const char *name)
{
	return !strncmp(name, "base", 4);
}

static bool is_raw(const struct sim_run *run, const char *name)
{
	const struct sim_config *c = &run->script->config;
	if (!strcmp(name, "deep"))
		return true;
	return (is_base(name) ? c->backing : c->other) == SIM_BACKING_RAW;
}

uint64_t sim_tool_backing_bytes(struct sim_run *run)
{
	char name[SIM_NAME_BYTES], path[SIM_NAME_BYTES + 8];
	uint8_t be[8];
	sim_tool_backing(run, name);
	if (!*name)
		return 0;
	snprintf(path, sizeof(path), FOLDER "%s", name);
	const struct memory_file *f = memory_disk_find(&run->world.disk, path);
	if (is_raw(run, name))
		return f->now.size_bytes;
	memory_content_read(&f->now, 24, be, sizeof(be));
	return cow_load64_be(be);
}

static bool holds_nothing(struct sim_run *run)
{
	struct cow_header h = sim_snapshot_header(run);
	const struct memory_file *f = memory_disk_find(&run->world.disk, TOP);
	uint64_t any = 0, entry;
	for (uint32_t i = 0; i < h.l1_entries; i++) {
		memory_content_read(&f->now, h.l1_off + 8ull * i, &entry, sizeof(entry));
		any |= entry;
	}
	return !any;
}

static bool is_amended(const struct cow_header *h, const struct cow_amend_options *o)
{
	bool lazy = h->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
	if (o->version && h->version != o->version)
		return false;
	if (o->refcount_bits && 1u << h->refcount_order != o->refcount_bits)
		return false;
	return o->lazy_refcounts == COW_AMEND_KEEP || lazy == (o->lazy_refcounts == COW_AMEND_ON);
}

/* Is the image as it is after the verb? */
static bool is_done(struct sim_run *run)
{
	const struct sim_tool *t = &run->tool;
	struct cow_header h = sim_snapshot_header(run);
	char name[SIM_NAME_BYTES];
	switch (t->what) {
	case SIM_TOOL_COMMIT:
		return t->keep || t->into || holds_nothing(run);
	case SIM_TOOL_AMEND:
		return is_amended(&h, &t->amend);
	case SIM_TOOL_RESIZE:
		return h.size_bytes == t->size_bytes;
	case SIM_TOOL_COMPACT:
		/* a host that refuses may keep the end of the file, which is said */
		return t->had_faults ||
		       memory_disk_find(&run->world.disk, TOP)->now.size_bytes <= t->length;
	case SIM_TOOL_KEYS:
		return sim_slots_done(run);
	default:
		sim_tool_backing(run, name);
		return !strcmp(name, t->base);
	}
}

/* ---- what is to be done ---- */

/* It had to grow, and would show more of what lies below it. */
static bool base_cannot_grow(struct sim_run *run)
{
	const struct memory_file *deep = memory_disk_find(&run->world.disk, DEEP);
	uint64_t bytes = sim_tool_backing_bytes(run);
	return is_base(run->tool.was) && deep && bytes < deep->now.size_bytes &&
	       bytes < run->size_bytes;
}

static bool choose_commit(struct sim_run *run, const struct sim_action *a)
{
	struct sim_tool *t = &run->tool;
	bool deep = is_base(t->was) && memory_disk_find(&run->world.disk, DEEP);
	if (sim_snapshot_header(run).nr_snapshots) /* they would show what changes below */
		t->refused = -ENOTSUP;
	else if (a->queue & 1)
		t->keep = true;
	else if (deep && a->queue & 2)
		t->into = DEEP;
	else if (run->script->config.data_file)
		t->refused = -ENOTSUP;
	if (!t->into && base_cannot_grow(run))
		t->refused = -ENOTSUP;
	return *t->was;
}

static bool choose_base(struct sim_run *run, const struct sim_action *a)
{
	char base[SIM_NAME_BYTES], other[SIM_NAME_BYTES], path[SIM_NAME_BYTES + 8];
	const char *const names[] = { base, other, "deep" };
	struct sim_tool *t = &run->tool;
	strcpy(base, sim_tool_name(run, "base"));
	strcpy(other, sim_tool_name(run, "other"));
	for (unsigned i = 0; i < 3 && t->what == SIM_TOOL_REBASE; i++) {
		const char *name = names[(a->queue + i + 1) % 3];
		snprintf(path, sizeof(path), FOLDER "%s", name);
		if (!strcmp(name, t->was) || !memory_disk_find(&run->world.disk, path))
			continue;
		strcpy(t->base, name);
		t->format = is_raw(run, name) ? "raw" : "qcow2";
		break;
	}
	if (sim_snapshot_header(run).nr_snapshots)
		t->refused = -ENOTSUP;
	return run->script->config.data_file != SIM_DATA_RAW && strcmp(t->was, t->base) &&
	       (*t->base || t->what == SIM_TOOL_FLATTEN);
}

/* To version 3 and back, lazy refcounts and back, or other refcount bits: twice as many, half as many. */
static bool choose_amend(struct sim_run *run, const struct sim_action *a)
{
	struct cow_header h = sim_snapshot_header(run);
	struct cow_amend_options *o = &run->tool.amend;
	bool lazy = h.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
	run->tool.was_order = h.refcount_order;
	if (run->script->config.version == 2)
		o->version = h.version == 2 ? 3 : 2;
	else if (a->queue % 4)
		o->refcount_bits = 1u << (h.refcount_order + (a->queue % 4 == 1 ? 1 : 6)) % 7;
	else
		o->lazy_refcounts = lazy ? COW_AMEND_OFF : COW_AMEND_ON;
	return true;
}

#define MAX_PREPARED (256u << 10)

static bool choose_size(struct sim_run *run, const struct sim_action *a)
{
	struct sim_command c = { 0 };
	struct sim_action resize = *a;
	resize.length = SIM_SNAPSHOT_RESIZE;
	sim_snapshot_choose(run, &resize, true, &c);
	run->tool.size_bytes = c.size_bytes;
	/* What is much is not prepared, cluster by cluster, at each of its crash points. */
	if (c.size_bytes > run->size_bytes && c.size_bytes - run->size_bytes <= MAX_PREPARED)
		run->tool.preallocation = a->queue % 4;
	return c.what == SIM_SNAPSHOT_RESIZE;
}

/* All at once, or in steps of a few clusters; compressing or not. */
static bool choose_compact(struct sim_run *run, const struct sim_action *a)
{
	static const uint64_t clusters[] = { 1024, 1, 4, 16 };
	const struct sim_config *c = &run->script->config;
	bool one_bit = sim_snapshot_header(run).refcount_order == 0; /* now: it may be amended */
	struct sim_tool *t = &run->tool;
	t->step_bytes = clusters[a->queue % 4] << run->script->config.cluster_bits;
	t->zeroes = a->queue % 4 != 1;
	t->compress = a->queue >= 4;
	if (t->compress && (c->encrypt || c->data_file || one_bit))
		t->refused = -ENOTSUP;
	t->length = memory_disk_find(&run->world.disk, TOP)->now.size_bytes;
	return true;
}

bool sim_tool_choose(struct sim_run *run, const struct sim_action *a)
{
	struct sim_tool *t = &run->tool;
	*t = (struct sim_tool){ .what = a->length % SIM_NR_TOOLS,
				.may_leak = t->may_leak,
				.was_bytes = run->size_bytes };
	sim_tool_backing(run, t->was);
	if (t->what != SIM_TOOL_REBASE && t->what != SIM_TOOL_FLATTEN)
		memcpy(t->base, t->was, sizeof(t->base));
	switch (t->what) {
	case SIM_TOOL_COMMIT:
		return choose_commit(run, a);
	case SIM_TOOL_AMEND:
		return choose_amend(run, a);
	case SIM_TOOL_RESIZE:
		return choose_size(run, a);
	case SIM_TOOL_COMPACT:
		return choose_compact(run, a);
	case SIM_TOOL_KEYS:
		return sim_slots_choose(run, a);
	default:
		return choose_base(run, a);
	}
}

/* ---- doing it ---- */

static int on_file(struct sim_run *run, struct cow_error *err)
{
	const struct sim_tool *t = &run->tool;
	const struct cow_resize_options resize = { .bytes = t->size_bytes,
						   .shrink = true,
						   .preallocation = t->preallocation };
	const struct cow_compact_options compact = { .step_bytes = t->step_bytes,
						     .zeroes = t->zeroes,
						     .compress = t->compress };
	const struct cow_host_ops *ops = run->world.disk.host.ops;
	struct cow_compact_result result;
	struct cow_file *file;
	int ret = ops->open(&run->world.disk.host, TOP, COW_OPEN_WRITE, &file, err);
	if (ret)
		return ret;
	if (t->what == SIM_TOOL_AMEND)
		ret = cow_amend(&run->control->base, file, &t->amend, err);
	else if (t->what == SIM_TOOL_RESIZE)
		ret = cow_resize(&run->control->base, file, &resize, err);
	else if (t->what == SIM_TOOL_KEYS)
		ret = sim_slots_run(run, file, err);
	else
		ret = cow_compact(&run->control->base, file, &compact, &result, err);
	ops->close(file);
	return ret;
}

static int execute(struct sim_run *run, struct cow_error *err)
{
	const struct sim_config *c = &run->script->config;
	const struct sim_tool *t = &run->tool;
	struct cow_disk_spec spec = { .path = TOP,
				      .format = COW_DISK_QCOW2,
				      .open = { .buffered = c->buffered,
						.cache_bytes = c->cache_bytes,
						.reserve_bytes = c->reserve_bytes,
						.limits = &c->limits } };
	const struct cow_backing_commit commit = { .image = &spec,
						   .base = t->into,
						   .keep = t->keep };
	const struct cow_backing_rebase rebase = { .image = &spec,
						   .base = *t->base ? t->base : NULL,
						   .format = t->format };
	sim_image_keys(run, &spec.open);
	if (t->what >= SIM_TOOL_AMEND)
		return on_file(run, err);
	if (t->what == SIM_TOOL_COMMIT)
		return cow_backing_commit(&run->world.disk.host, &run->control->base, &commit, err);
	return cow_backing_rebase(&run->world.disk.host, &run->control->base, &rebase, err);
}

static uint64_t nr_injected(const struct sim_run *run)
{
	return run->world.faults.nr_injected + run->world.faults.nr_full;
}

static void arm(struct sim_run *run, const struct sim_action *a)
{
	struct sim_world *world = &run->world;
	if (!a)
		return;
	world->faults.permille = (unsigned)run->script->config.permille;
	world->crash_kind = a->flags & SIM_KILL ? MEMORY_CRASH_KILL : MEMORY_CRASH_POWER;
	if (!a->offset)
		return;
	if (a->flags & SIM_FAILS) {
		world->faults.countdown = a->offset;
		world->faults.countdown_kind = -1;
	} else if (a->flags & SIM_NO_ROOM) {
		run->tool.full_at = world->events + a->offset;
	} else if (a->flags & SIM_AT_SYNC) {
		world->power_off_sync = a->offset;
	} else {
		world->power_off_at = world->events + a->offset;
	}
}

static void disarm(struct sim_run *run)
{
	struct sim_world *world = &run->world;
	world->power_off_at = 0;
	world->power_off_sync = 0;
	world->faults.countdown = 0;
	world->faults.permille = 0;
	world->faults.full = SIM_FULL_NOT;
	run->tool.full_at = 0;
}

void sim_tool_event(struct sim_run *run)
{
	struct sim_faults *f = &run->world.faults;
	if (!run->tool.full_at || run->world.events < run->tool.full_at || f->full)
		return;
	f->full = SIM_FULL_ALL;
	f->full_percent = 100;
	f->full_syncs = false;
	f->full_at = 0;
}

/* Has this one a good reason to fail? */
static bool may_fail(const struct sim_run *run, int error)
{
	const struct sim_config *c = &run->script->config;
	const struct sim_tool *t = &run->tool;
	if (t->had_faults || (error == -ENOSPC && c->block_device))
		return true;
	if (t->what == SIM_TOOL_AMEND && t->amend.refcount_bits) /* there are more references */
		return error == -ERANGE && t->amend.refcount_bits < 1u << t->was_order;
	if (t->what == SIM_TOOL_AMEND) /* version 2 cannot say all that 3 can */
		return t->amend.version == 2 && error == -ENOTSUP;
	/* two long names have no room in a small cluster */
	return t->what == SIM_TOOL_REBASE && error == -EFBIG && c->name_bytes;
}

static void lose_power(struct sim_run *run)
{
	run->world.crash_kind = MEMORY_CRASH_POWER;
	sim_world_power_off(&run->world);
	sim_world_power_on(&run->world);
}

static void compare(struct sim_run *run, struct cow_lane *lane)
{
	uint64_t nr = run->model.nr_sectors, end = cow_disk_bytes(lane->disk) / SIM_SECTOR;
	uint64_t start = sim_model_tick(&run->model);
	uint8_t *buf = cow_buf_alloc(SIM_SECTOR);
	char text[700];
	cow_assert(buf);
	for (uint64_t s = 0; s < nr && s < end; s++) {
		int ret = cow_lane_read(lane, s * SIM_SECTOR, SIM_SECTOR, buf);
		if (run->world.powered_off)
			break;
		if (ret)
			sim_fail("cannot read what was committed: %s", strerror(-ret));
		if (!sim_model_read_ok(&run->model, start, s, 1, buf, text, sizeof(text)))
			sim_fail("what was committed: %s", text);
	}
	free(buf);
	if (end < nr)
		sim_fail("what was committed has %llu sectors", (unsigned long long)end);
}

/* By itself it shows all that the image does. */
static void check_committed(struct sim_run *run)
{
	const struct sim_tool *t = &run->tool;
	char path[SIM_NAME_BYTES + 8];
	struct cow_disk_spec spec = { .path = t->into ? t->into : path };
	struct cow_error err = { 0 };
	struct cow_disk *disk;
	struct cow_lane lane;
	snprintf(path, sizeof(path), FOLDER "%s", t->was);
	spec.format = t->into || is_raw(run, t->was) ? COW_DISK_RAW : COW_DISK_QCOW2;
	sim_image_keys(run, &spec.open);
	int ret = cow_disk_open(&run->world.disk.host, &run->control->base, &spec, &disk, &err);
	if (ret && run->world.powered_off)
		return;
	if (ret || cow_lane_open(&lane, disk, &run->control->base))
		sim_fail("cannot open what was committed: %s", err.text);
	compare(run, &lane);
	cow_lane_close(&lane);
	if (cow_disk_close(disk, &run->control->base, &err) && !run->world.powered_off)
		sim_fail("cannot close what was committed: %s", err.text);
}

void sim_tool_run(struct sim_run *run, const struct sim_action *a)
{
	struct sim_tool *t = &run->tool;
	struct cow_error err = { 0 };
	t->pending = true;
	t->injected = nr_injected(run);
	arm(run, a);
	int ret = execute(run, &err);
	disarm(run);
	t->had_faults = nr_injected(run) > t->injected;
	t->may_leak |= ret || t->had_faults;
	if (run->sweep)
		run->sweep->met_fault |= t->had_faults;
	run->hidden_leaks |= t->had_faults;
	if (run->world.powered_off) {
		run->stats.tools_cut++;
		return;
	}
	if (ret ? ret != t->refused && !may_fail(run, ret) : t->refused != 0)
		sim_fail("tool %u: %s (%s)", t->what, ret ? err.text : "was not refused",
			 strerror(-ret));
	/* what is said to be done must be durable, and what failed stands by itself */
	if (!ret || memory_disk_in_doubt(&run->world.disk) || sim_chance(&run->random, 50))
		lose_power(run);
	if (!ret && !is_done(run))
		sim_fail("tool %u: said to be done, but it is not on disk", t->what);
	if (!ret && t->what == SIM_TOOL_COMMIT)
		check_committed(run);
	t->pending = (ret && t->had_faults) || run->world.powered_off;
	run->stats.tools += !ret;
}

/* ---- judging it ---- */

static void check_below(struct sim_run *run, const char *path, uint64_t kind)
{
	struct cow_check_options options = { 0 };
	struct cow_check_result result;
	struct cow_error err = { 0 };
	struct cow_file *file;
	if (kind != SIM_BACKING_QCOW2)
		return;
	if (run->world.disk.host.ops->open(&run->world.disk.host, path, 0, &file, &err))
		sim_fail("open for check: %s", err.text);
	int ret = cow_check_file(&run->control->base, file, &options, &result, &err);
	run->world.disk.host.ops->close(file);
	if (run->world.powered_off)
		return;
	if (ret)
		sim_fail("check of %s: %s", path, err.text);
	if (result.corruptions || result.check_errors || (result.leaks && !run->tool.may_leak))
		sim_fail("check of %s: %llu corruptions, %llu leaks, %llu errors", path,
			 (unsigned long long)result.corruptions, (unsigned long long)result.leaks,
			 (unsigned long long)result.check_errors);
}

void sim_tool_check(struct sim_run *run)
{
	const struct sim_tool *t = &run->tool;
	const struct sim_config *c = &run->script->config;
	uint64_t size_bytes = sim_snapshot_header(run).size_bytes;
	char name[SIM_NAME_BYTES];
	sim_tool_backing(run, name);
	if (strcmp(name, t->was) && strcmp(name, t->base))
		sim_fail("the backing file is %s, was %s, and should become %s", name, t->was,
			 t->base);
	if (size_bytes != run->size_bytes && size_bytes != t->size_bytes &&
	    !(t->pending && size_bytes == t->was_bytes))
		sim_fail("the disk has %llu bytes", (unsigned long long)size_bytes);
	run->size_bytes = size_bytes;
	sim_slots_check(run);
	check_below(run, sim_tool_path(run, "base"), c->backing);
	check_below(run, sim_tool_path(run, "other"), c->other);
}

uint64_t sim_tool_hash(const struct sim_run *run)
{
	const struct sim_tool *t = &run->tool;
	uint64_t hash = sim_mix(t->may_leak);
	if (!t->pending)
		return hash;
	hash = sim_mix(hash + 1 + t->what);
	for (unsigned i = 0; i < sizeof(t->base); i++)
		hash = sim_mix(hash ^ (uint8_t)t->base[i]) + i;
	hash = sim_mix(hash + t->keep + 2 * (t->into != NULL));
	hash = sim_mix(hash ^ (t->slots.goal | t->slots.was << 8));
	hash = sim_mix(hash ^ t->amend.refcount_bits ^ (uint64_t)t->preallocation << 32);
	hash = sim_mix(hash ^ t->amend.version) + t->amend.lazy_refcounts;
	return sim_mix(sim_mix(hash ^ t->size_bytes) ^ t->was_bytes);
}
