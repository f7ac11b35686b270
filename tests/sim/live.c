/* SPDX-License-Identifier: MIT */
#include "tests/sim/live.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/life/live.h"
#include "engine/life/live_resize.h"
#include "engine/core/load.h"
#include "engine/request/op.h"
#include "tests/sim/snapshot.h"

#define TOP "/sim/top"

/* ---- what is on disk ---- */

static struct cow_snapshot *load_table(struct sim_run *run, uint32_t *nr)
{
	const struct memory_file *f = memory_disk_find(&run->world.disk, TOP);
	struct cow_header h = sim_snapshot_header(run);
	struct cow_snapshot *list;
	struct cow_error err = { 0 };
	static uint8_t buf[65536];
	uint64_t used;
	memory_content_read(&f->now, h.snapshots_off, buf, sizeof(buf));
	if (cow_snapshots_decode(buf, sizeof(buf), h.snapshots_off, &h, &list, &used, &err))
		sim_fail("live snapshot: the snapshot table is broken: %s", err.text);
	*nr = h.nr_snapshots;
	return list;
}

static bool is_on_disk(struct sim_run *run, const char *name)
{
	uint32_t nr;
	bool found = false;
	struct cow_snapshot *list = load_table(run, &nr);
	for (uint32_t i = 0; i < nr; i++)
		found |= !strcmp(list[i].name, name);
	cow_snapshots_free(list, nr);
	return found;
}

static bool was_resized(struct sim_run *run)
{
	uint64_t size_bytes = sim_snapshot_header(run).size_bytes;
	if (size_bytes != run->size_bytes && size_bytes != run->live.size_bytes)
		sim_fail("the disk has %llu bytes", (unsigned long long)size_bytes);
	return size_bytes != run->size_bytes;
}

static bool took_effect(struct sim_run *run)
{
	if (run->live.what == SIM_SNAPSHOT_RESIZE)
		return was_resized(run);
	return is_on_disk(run, run->live.name) == (run->live.what == SIM_SNAPSHOT_CREATE);
}

static void settle(struct sim_run *run, bool effect)
{
	struct sim_command *c = &run->live;
	if (effect && c->what == SIM_SNAPSHOT_CREATE && !c->shot)
		sim_fail("live snapshot: it is on disk, but the image was never frozen for it");
	if (effect)
		sim_snapshot_take_effect(run, c);
	sim_shot_free(c->shot);
	c->shot = NULL;
	c->in_doubt = false;
}

void sim_live_resolve(struct sim_run *run)
{
	if (!run->live.in_doubt)
		return;
	settle(run, took_effect(run));
	run->stats.snapshots_lost++;
}

/* ---- the command ---- */

/*
 * The thread that asked for the snapshot stands still below us, in one call: a queue that would have
 * to wait for what runs on that thread's loop stays.
 */
static void leave_if_idle(struct sim_run *run, unsigned queue)
{
	struct cow_loop *loop = &run->queue_loops[queue]->base;
	if (run->queues[queue] && !run->queues[queue]->reserve.refilling &&
	    !cow_quarantine_runs_on(&run->image->quarantine, loop) &&
	    !cow_commit_runs_on(&run->image->core.commit, loop))
		sim_image_queue_leaves(run, queue);
}

void sim_live_step(struct sim_run *run)
{
	unsigned next = run->action_idx + 1;
	if (run->frozen && run->may_give_up && sim_chance(&run->random, 1))
		atomic_store(&run->gave_up, true);
	if (!run->frozen || run->world.powered_off || next >= run->script->nr ||
	    !sim_chance(&run->random, 5))
		return;
	const struct sim_action *a = &run->script->actions[next];
	if (sim_chance(&run->random, 5))
		leave_if_idle(run, (unsigned)sim_below(&run->random, run->script->config.queues));
	if (a->kind == SIM_QUEUE_LEAVES) {
		run->action_idx = next;
		leave_if_idle(run, a->queue % (unsigned)run->script->config.queues);
		return;
	}
	if (a->kind > SIM_ZEROES || !sim_guest_has_room(run, a))
		return;
	run->action_idx = next;
	sim_guest_submit(run, a);
}

/* Frozen, and settled as the engine says: the moment of the snapshot. */
static void moment(void *ctx, struct cow_snapshot_date *date)
{
	struct sim_run *run = ctx;
	struct sim_command *c = &run->live;
	if (run->world.powered_off)
		return;
	sim_shot_free(c->shot);
	c->shot = sim_shot_take(&run->model, c->begun);
	date->sec = 1;
}

static int change(struct sim_run *run)
{
	struct sim_command *c = &run->live;
	struct cow_live_snapshot s = {
		.what = c->what == SIM_SNAPSHOT_CREATE ? COW_LIVE_CREATE : COW_LIVE_DELETE,
		.key = { .text = c->name, .by = COW_SNAPSHOT_BY_NAME },
		.moment = moment,
		.ctx = run,
		.cancel = &run->gave_up,
	};
	int ret = cow_image_change_snapshot(run->image, &run->visitor->base, &s, &c->err);
	run->stats.all_frozen += s.all_frozen;
	free(s.id);
	return ret;
}

static int resize(struct sim_run *run)
{
	struct sim_command *c = &run->live;
	const struct cow_resize_options options = { .bytes = c->size_bytes, .shrink = true };
	uint64_t size_bytes, pause_ns;
	int ret = cow_image_resize(run->image, &run->visitor->base, &options, &size_bytes,
				   &pause_ns, &c->err);
	if (!run->world.powered_off && size_bytes != (ret ? run->size_bytes : c->size_bytes))
		sim_fail("the disk is said to have %llu bytes", (unsigned long long)size_bytes);
	return ret;
}

static bool arm(struct sim_world *world, const struct sim_action *a)
{
	if (!a->offset || world->power_off_at || world->power_off_sync || world->power_off_header)
		return false;
	world->crash_kind = a->flags & SIM_KILL ? MEMORY_CRASH_KILL : MEMORY_CRASH_POWER;
	if (a->flags & SIM_AT_SYNC)
		world->power_off_sync = a->offset;
	else
		world->power_off_at = world->events + a->offset;
	return true;
}

/* A single error passes: the engine tries again. */
static void judge_failure(const char *why, uint64_t errors)
{
	if (errors <= 1 && strstr(why, "cannot be loaded anew"))
		sim_fail("live snapshot command: after one error: %s", why);
}

/* errors: of the host, meanwhile */
static void judge_error(struct sim_run *run, uint64_t errors)
{
	struct sim_command *c = &run->live;
	const char *failed = cow_image_failure(run->image);
	bool gave_up = c->result == -ECANCELED && atomic_load(&run->gave_up);
	if (!gave_up && !sim_guest_excused(run) && !sim_snapshot_may_refuse(run, c))
		sim_fail("live snapshot command %u: %s", c->what, c->err.text);
	if (!failed && took_effect(run))
		sim_fail("live snapshot command %u failed (%s), but took effect", c->what,
			 c->err.text);
	run->hidden_leaks |= sim_guest_excused(run);
	c->in_doubt = failed;
	if (failed)
		judge_failure(failed, errors);
	else
		settle(run, false);
}

static void judge_success(struct sim_run *run)
{
	struct sim_command *c = &run->live;
	bool created = c->what == SIM_SNAPSHOT_CREATE;
	if (!took_effect(run))
		sim_fail("live snapshot command %u: done, but it is not on disk", c->what);
	settle(run, true);
	run->stats.live++;
	sim_model_flushed(&run->model, c->begun);
	if (created && !run->world.faults.countdown && sim_chance(&run->random, 50))
		sim_snapshot_verify_taken(run, &run->taken[run->nr_taken - 1]);
}

void sim_live_command(struct sim_run *run, const struct sim_action *a)
{
	struct sim_command *c = &run->live;
	if (c->in_doubt || cow_image_failure(run->image) || run->script->config.data_file)
		return;
	memset(c, 0, sizeof(*c));
	sim_snapshot_choose(run, a, false, c);
	bool armed = arm(&run->world, a);
	uint64_t errors = run->world.faults.nr_injected;
	c->begun = sim_model_tick(&run->model);
	c->in_doubt = true; /* until it returns with the power on */
	run->may_give_up = sim_chance(&run->random, 10);
	atomic_store(&run->gave_up, false);
	run->frozen = true;
	sim_loop_come(run->visitor);
	c->result = c->what == SIM_SNAPSHOT_RESIZE ? resize(run) : change(run);
	sim_loop_leave(run->visitor);
	run->frozen = false;
	if (run->world.powered_off)
		return;
	if (armed)
		run->world.power_off_at = run->world.power_off_sync = 0;
	if (c->result)
		judge_error(run, run->world.faults.nr_injected - errors);
	else
		judge_success(run);
}
