/* SPDX-License-Identifier: MIT */
#include "tests/sim/run.h"

#include <errno.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/log.h"
#include "engine/crypt/secret.h"
#include "tests/sim/cut.h"
#include "tests/sim/keys.h"
#include "tests/sim/live.h"
#include "tests/sim/outlive.h"
#include "tests/sim/second.h"
#include "tests/sim/snapshot.h"
#include "tests/sim/sweep.h"
#include "tests/sim/tool.h"

static struct sim_run *current; /* for sim_fail() */

/* ---- failing ---- */

#define NR_LOG_LINES 16
static char log_lines[NR_LOG_LINES][256];
static unsigned nr_log;

static void keep_line(enum cow_log_level level, const char *line)
{
	snprintf(log_lines[nr_log++ % NR_LOG_LINES], sizeof(log_lines[0]), "%s", line);
}

static void dump_file(const char *dir, const struct memory_file *f)
{
	char path[512];
	static uint8_t buf[65536];
	snprintf(path, sizeof(path), "%s/%s", dir, strrchr(f->path, '/') + 1);
	FILE *out = fopen(path, "w");
	for (uint64_t at = 0; out && at < f->now.size_bytes; at += sizeof(buf)) {
		uint64_t n =
			f->now.size_bytes - at < sizeof(buf) ? f->now.size_bytes - at : sizeof(buf);
		memory_content_read(&f->now, at, buf, n);
		fwrite(buf, 1, n, out);
	}
	if (out)
		fclose(out);
}

_Noreturn void sim_fail(const char *fmt, ...)
{
	va_list ap;
	fflush(stdout);
	fprintf(stderr, "FAIL");
	if (current) {
		fprintf(stderr, " at action %u, step %llu", current->action_idx,
			(unsigned long long)current->world.steps);
		for (struct memory_file *f = current->world.disk.files; f && current->dump_dir;
		     f = f->next)
			dump_file(current->dump_dir, f);
	}
	fprintf(stderr, ": ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	for (unsigned i = nr_log < NR_LOG_LINES ? 0 : nr_log - NR_LOG_LINES; i < nr_log; i++)
		fprintf(stderr, "  log: %s\n", log_lines[i % NR_LOG_LINES]);
	exit(1);
}

/* ---- crashes ---- */

static void clear_faults(struct sim_run *run)
{
	struct sim_faults *f = &run->world.faults;
	f->countdown = 0;
	f->full = SIM_FULL_NOT;
	f->permille = 0;
}

static void start_faults(struct sim_run *run)
{
	run->world.faults.permille = (unsigned)run->script->config.permille;
	run->injected_at_open = run->world.faults.nr_injected + run->world.faults.nr_full;
}

/* The moment itself, noticed as soon as the scheduler is back here. */
static void notice_power_off(struct sim_run *run)
{
	if (!run->world.powered_off || run->seen_power_off)
		return;
	run->seen_power_off = true;
	if (run->world.crash_kind == MEMORY_CRASH_KILL)
		run->stats.kills++;
	else
		run->stats.crashes++;
}

/* Runs until no request is in flight. */
static void drain(struct sim_run *run)
{
	while (sim_guest_busy(run)) {
		if (!sim_world_step(&run->world) || run->world.steps % 65536 == 0)
			sim_guest_check_hang(run);
	}
}

/* Nothing is in the way any more of who closed the image, or wants to open it. */
static void open_again(struct sim_run *run, const char *why)
{
	start_faults(run);
	run->world.faults.permille = 0;
	if (sim_image_open(run) && !run->world.powered_off)
		sim_fail("cannot reopen%s", why);
	if (run->world.powered_off)
		return;
	sim_guest_verify(run);
	start_faults(run);
}

/* The image is closed, a verb went over it; power is on. */
static void after_tool(struct sim_run *run)
{
	run->injected_at_open = run->world.faults.nr_injected + run->world.faults.nr_full;
	sim_tool_check(run);
	if (run->tool.had_faults)
		run->leaks = UINT64_MAX;
	sim_image_check(run, !run->tool.had_faults);
	open_again(run, " after a verb");
}

/* What was cut off, or failed, is done to its end. */
static void tool_again(struct sim_run *run)
{
	if (!run->tool.pending)
		return;
	clear_faults(run);
	sim_image_close(run);
	run->leaks = UINT64_MAX;
	sim_tool_run(run, NULL);
	if (run->tool.pending)
		sim_fail("tool %u: cannot be run again", run->tool.what);
	after_tool(run);
}

/* A replay is a few writes, each behind a barrier: just before one of those. */
static void arm_in_replay(struct sim_run *run)
{
	struct sim_world *world = &run->world;
	if (world->power_off_at || world->powered_off || !sim_chance(&run->random, 60))
		return;
	world->power_off_sync = 1 + sim_below(&run->random, 5);
	world->crash_kind = sim_chance(&run->random, 25) ? MEMORY_CRASH_KILL : MEMORY_CRASH_POWER;
}

static void replayed(struct sim_run *run)
{
	if (!sim_outlive_pending(run) || run->world.powered_off)
		return;
	run->stats.replays++;
	sim_bitmap_outlived(run);
}

/*
 * Power is off: lets the old process run into the wall, then looks at what is left, perhaps through
 * another crash.
 */
static void recover(struct sim_run *run)
{
	bool first = true, soon = false, replays = false;
	run->hidden_leaks |= sim_guest_excused(run);
	notice_power_off(run);
	if (run->image) {
		drain(run);
		sim_image_close(run);
	}
	if (run->swept)
		sim_sweep_states(run);
	do {
		sim_outlive_settle(run);
		bool was_power = run->world.crash_kind == MEMORY_CRASH_POWER;
		sim_world_power_on(&run->world);
		run->seen_power_off = false;
		clear_faults(run);
		start_faults(run);
		run->world.faults.permille = 0;
		/*
		 * What a killed process has switched counts from when the next one has opened the
		 * image.
		 */
		soon = !was_power && run->live.in_doubt;
		first &= !soon && !run->swept;
		if (first && sim_chance(&run->random, 25)) {
			run->world.power_off_at =
				run->world.events + 1 + sim_below(&run->random, 40);
			run->world.crash_kind =
				sim_outlive_pending(run) && sim_chance(&run->random, 50)
					? MEMORY_CRASH_KILL
					: MEMORY_CRASH_POWER;
		}
		first = false;
		replays = sim_outlive_pending(run);
		if (!replays)
			sim_second_take(run);
		sim_live_resolve(run);
		if (run->tool.pending)
			sim_tool_check(run);
		sim_image_check(run, false);
		if (replays && !soon)
			arm_in_replay(run);
		if (!run->world.powered_off && sim_image_open(run) == 0) {
			replayed(run);
			sim_guest_verify(run);
			sim_second_end(run, !run->world.powered_off);
			if (run->world.powered_off)
				sim_image_close(run);
			else if (was_power || replays)
				sim_model_flushed(&run->model, sim_model_tick(&run->model));
		}
		sim_second_end(run, false);
		notice_power_off(run);
	} while (run->world.powered_off);
	run->world.power_off_at = 0;
	run->world.power_off_sync = 0;
	run->world.power_off_header = 0;
	/* unknown until the next check; a replayed image gives them back when it is closed */
	run->leaks = run->outlive.pending ? 0 : UINT64_MAX;
	sim_outlive_done(run);
	tool_again(run);
	if ((soon || replays) && sim_chance(&run->random, 50)) {
		run->world.power_off_at = run->world.events + 1 + sim_below(&run->random, 40);
		run->world.crash_kind = MEMORY_CRASH_POWER;
	}
	start_faults(run);
	sim_outlive_reissue(run);
}

/* How often the refcount table grew, to know that it does. */
static void note_growth(struct sim_run *run)
{
	uint8_t be[4];
	memory_content_read(&memory_disk_find(&run->world.disk, "/sim/top")->now, 56, be,
			    sizeof(be));
	uint32_t clusters = cow_load32_be(be);
	if (run->reftable_clusters && clusters > run->reftable_clusters)
		run->stats.growths++;
	run->reftable_clusters = clusters;
}

static void reopen(struct sim_run *run, const struct sim_action *a)
{
	struct sim_world *world = &run->world;
	drain(run);
	if (world->powered_off)
		return;
	note_growth(run);
	run->stats.reopens++;
	if (a->offset) {
		world->power_off_at = world->events + a->offset;
		world->power_off_sync = a->flags & SIM_AT_SYNC ? 1 + a->offset % 4 : 0;
		world->crash_kind = MEMORY_CRASH_POWER;
	}
	sim_image_close(run);
	bool excused = sim_guest_may_leak(run) || run->close_failed;
	if (world->powered_off)
		return;
	run->hidden_leaks |= excused;
	world->power_off_at = 0;
	world->power_off_sync = 0;
	world->power_off_header = 0;
	clear_faults(run);
	if (memory_disk_in_doubt(&world->disk) || run->live.in_doubt ||
	    sim_chance(&run->random, 50)) {
		/* what a clean close left must stand by itself */
		world->crash_kind = MEMORY_CRASH_POWER;
		sim_world_power_off(world);
		sim_world_power_on(world);
	}
	start_faults(run);
	world->faults.permille = 0;
	sim_live_resolve(run);
	sim_image_check(run, !excused);
	if (world->powered_off)
		return;
	if (sim_image_open(run)) {
		if (world->powered_off)
			return;
		sim_fail("cannot reopen");
	}
	sim_guest_verify(run);
	if (!world->powered_off)
		start_faults(run);
}

/* Between two openings: everything settled, closed, the command, opened again. */
static void snapshot(struct sim_run *run, const struct sim_action *a)
{
	reopen(run, &(struct sim_action){ .kind = SIM_REOPEN });
	bool impossible = run->script->config.data_file;
	if (impossible || run->world.powered_off || cow_image_failure(run->image))
		return;
	clear_faults(run);
	sim_image_close(run);
	sim_image_check(run, true);
	sim_snapshot_command(run, a);
	bool may_cut = run->stats.resized, live = may_cut && sim_chance(&run->random, 50);
	bool cut = may_cut && !live && sim_cut(run);
	start_faults(run);
	run->world.faults.permille = 0;
	if (sim_image_open(run))
		sim_fail("cannot reopen after a snapshot command");
	if (live)
		cut = sim_cut_live(run);
	if (cut)
		sim_cut_grow_live(run);
	sim_guest_verify(run);
	if (cut)
		sim_snapshots_verify(run);
	start_faults(run);
}

static void tool(struct sim_run *run, const struct sim_action *a)
{
	reopen(run, &(struct sim_action){ .kind = SIM_REOPEN });
	if (run->world.powered_off || cow_image_failure(run->image))
		return;
	clear_faults(run);
	sim_image_close(run);
	if (run->world.powered_off)
		return;
	if (sim_tool_choose(run, a)) {
		sim_tool_run(run, a);
		if (run->world.powered_off)
			return;
		after_tool(run);
		tool_again(run);
	} else {
		sim_image_check(run, true);
		open_again(run, "");
	}
}

/* ---- actions ---- */

static void arm_crash(struct sim_run *run, const struct sim_action *a)
{
	if (run->world.power_off_at || run->world.power_off_sync)
		return;
	bool kill = a->flags & SIM_KILL ||
		    (run->script->config.outlive && sim_chance(&run->random, 60));
	run->world.crash_kind = kill ? MEMORY_CRASH_KILL : MEMORY_CRASH_POWER;
	if (a->flags & SIM_AT_HEADER)
		run->world.power_off_header = a->offset;
	else if (a->flags & SIM_AT_SYNC)
		run->world.power_off_sync = a->offset;
	else
		run->world.power_off_at = run->world.events + a->offset;
}

static void set_full(struct sim_run *run, const struct sim_action *a)
{
	run->world.faults.full = (enum sim_full)(a->offset % (SIM_FULL_ALL + 1));
	run->world.faults.full_percent = (unsigned)a->length;
	run->world.faults.full_syncs = a->queue & 1;
	run->world.faults.full_at = 0;
	for (struct memory_file *f = run->world.disk.files; f; f = f->next)
		if (!strcmp(f->path, "/sim/top"))
			run->world.faults.full_at = f->now.size_bytes;
}

static void act(struct sim_run *run, const struct sim_action *a)
{
	switch (a->kind) {
	case SIM_CRASH:
		arm_crash(run, a);
		break;
	case SIM_REOPEN:
		reopen(run, a);
		break;
	case SIM_FAULT:
		run->world.faults.countdown = a->offset;
		run->world.faults.countdown_kind = (int)a->length - 1;
		break;
	case SIM_FULL:
		set_full(run, a);
		break;
	case SIM_SNAPSHOT:
		snapshot(run, a);
		break;
	case SIM_LIVE:
		sim_live_command(run, a);
		break;
	case SIM_DRAIN:
		drain(run);
		break;
	case SIM_BITMAP:
		sim_bitmap_command(run, a);
		break;
	case SIM_TOOL:
		tool(run, a);
		break;
	case SIM_QUEUE_LEAVES:
		sim_image_queue_leaves(run, a->queue % (unsigned)run->script->config.queues);
		break;
	default:
		sim_guest_submit(run, a);
		break;
	}
}

static void linger(struct sim_run *run, const struct sim_action *a)
{
	uint64_t steps = a->flags & SIM_EAGER ? 0 : sim_below(&run->random, 40);
	while (steps-- && !run->world.powered_off)
		sim_world_step(&run->world);
}

void sim_run_actions(struct sim_run *run)
{
	for (; run->action_idx < run->script->nr; run->action_idx++) {
		const struct sim_action *a = &run->script->actions[run->action_idx];
		act(run, a);
		sim_image_memory(run);
		linger(run, a);
		if (run->world.powered_off)
			recover(run);
		if (run->swept)
			_exit(0);
		if (cow_image_failure(run->image) && sim_chance(&run->random, 10))
			reopen(run, &(struct sim_action){ .kind = SIM_REOPEN });
	}
}

/* ---- life ---- */

static void power_off_hook(struct sim_world *world)
{
	struct sim_run *run = current;
	if (sim_outlive_crash(run))
		sim_model_die(&run->model);
	else
		sim_model_crash(&run->model);
	sim_guest_abandon(run);
}

static void event_hook(struct sim_world *world)
{
	if (!current)
		return;
	sim_tool_event(current);
	if (current->script->config.sweep)
		sim_sweep_event(current);
}

static void step_hook(struct sim_world *world)
{
	if (current)
		sim_live_step(current);
}

static void setup(struct sim_run *run, const struct sim_script *script, bool trace)
{
	const struct sim_config *c = &script->config;
	run->script = script;
	sim_world_init(&run->world, c->seed);
	run->world.on_power_off = power_off_hook;
	run->world.on_step = step_hook;
	run->secret = sim_keys_secret();
	run->random.state = sim_mix(c->seed);
	run->control = sim_loop_new(&run->world);
	run->visitor = sim_loop_new(&run->world);
	sim_loop_leave(run->visitor);
	for (unsigned q = 0; q < c->queues; q++)
		run->queue_loops[q] = sim_loop_new(&run->world);
	run->size_bytes = c->size_bytes;
	sim_model_init(&run->model, c->size_bytes / SIM_SECTOR);
	sim_outlive_init(run);
	sim_image_create(run);
	run->world.trace = trace;
	run->world.faults.short_percent = c->noise ? 10 : 0;
	run->world.faults.again_percent = c->noise ? 3 : 0;
	if (sim_image_open(run))
		sim_fail("cannot open the new image");
	sim_guest_verify(run);
	start_faults(run);
	run->world.on_event = c->sweep || c->tool ? event_hook : NULL;
}

/*
 * Images are opened and closed over and over: the pages are kept. Not those of a process that forks:
 * each child would have to copy what it clears.
 */
static void keep_pages(const struct sim_script *script)
{
	mallopt(M_MMAP_THRESHOLD, script->config.sweep ? 128 << 10 : 4 << 20);
	if (!script->config.sweep)
		mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

struct sim_run *sim_run_begin(const struct sim_script *script,
			      const struct sim_run_options *options)
{
	struct sim_run *run = calloc(1, sizeof(*run));
	cow_assert(run);
	keep_pages(script);
	current = run;
	run->dump_dir = options->dump_dir;
	run->second_percent = options->second_percent;
	run->sweep = options->sweep;
	if (script->config.sweep && !run->sweep)
		run->sweep = sim_sweep_new();
	cow_log_set_sink(options->trace ? NULL : keep_line, COW_LOG_INFO);
	setup(run, script, options->trace);
	return run;
}

static void finish(struct sim_run *run, struct sim_stats *stats)
{
	run->world.power_off_at = 0;
	run->world.power_off_sync = 0;
	run->world.power_off_header = 0;
	reopen(run, &(struct sim_action){ .kind = SIM_REOPEN });
	sim_image_close(run);
	run->stats.injected = run->world.faults.nr_injected;
	run->stats.full = run->world.faults.nr_full;
	run->stats.events = run->world.events;
	*stats = run->stats;
	free(run->snapshot);
	sim_snapshots_fini(run);
	sim_bitmap_fini(run);
	sim_outlive_fini(run);
	cow_secret_free(run->secret);
	sim_model_fini(&run->model);
	sim_world_fini(&run->world);
}

void sim_run_end(struct sim_run *run, struct sim_stats *stats)
{
	run->finishing = true;
	drain(run);
	if (run->world.powered_off)
		recover(run);
	finish(run, stats);
	current = NULL;
	free(run);
}

void sim_run_script(const struct sim_script *script, struct sim_stats *stats,
		    const struct sim_run_options *options)
{
	struct sim_run *run = sim_run_begin(script, options);
	sim_run_actions(run);
	sim_run_end(run, stats);
}
