/* SPDX-License-Identifier: MIT */
/*
 * Clusters for the shadows of a live change, from a reservation like a queue's: refcount 1 from the
 * start, so nobody else takes them, and a crash leaks them at most.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/life/close.h"
#include "engine/life/freeze.h"
#include "engine/life/live_state.h"
#include "engine/space/refill.h"

/* Reserved at a time; also what is at hand when the freeze begins. */
#define AHEAD_CLUSTERS 256u
#define SPARE_CLUSTERS 64u
/*
 * The freeze has to wait for what was freed to be released, and for refills: most of that is waited
 * for before it, but not for ever.
 */
#define DRAIN_NS (1000ull * 1000 * 1000)
#define DRAINED_EXTENTS 96u
/* How often a full host may stop the release before what is to be freed is given up. */
#define FULL_TRIES 3u

void cow_live_space_init(struct cow_live_space *space, struct cow_image *image,
			 struct cow_loop *loop)
{
	memset(space, 0, sizeof(*space));
	space->image = image;
	space->loop = loop;
	cow_reserve_init(&space->reserve, &image->alloc);
	cow_refill_init(&space->reserve);
}

/* ---- a refill, and waiting for it ---- */

struct waiter {
	struct cow_task task;
	struct cow_live_space *space;
	bool over;
};

static enum cow_next live_filled(struct cow_task *task)
{
	return COW_END;
}

static const struct cow_step step_filled = { "live: filled", live_filled };

static enum cow_next live_fill(struct cow_task *task)
{
	task->step = &step_filled;
	cow_reserve_wait(&((struct waiter *)task)->space->reserve, task);
	return COW_WAIT;
}

static const struct cow_step step_fill = { "live: fill", live_fill };

static void over(struct cow_task *task)
{
	((struct waiter *)task)->over = true;
}

static int keep(struct cow_live_space *space, const struct cow_reserved *e)
{
	cow_assert(e->nr && space->nr <= space->cap);
	if (space->nr == space->cap) {
		unsigned cap = space->cap * 2 + 64;
		struct cow_live_run *more = reallocarray(space->runs, cap, sizeof(*more));
		if (!more)
			return -ENOMEM;
		space->runs = more;
		space->cap = cap;
	}
	space->runs[space->nr++] = (struct cow_live_run){ .cluster = e->cluster, .nr = e->nr };
	return 0;
}

static int take_over(struct cow_live_space *space)
{
	struct cow_reserve *r = &space->reserve;
	int ret = 0;
	for (; r->pos < r->nr && !ret; r->pos++)
		if (r->extents[r->pos].nr)
			ret = keep(space, &r->extents[r->pos]);
	return ret;
}

static int refill(struct cow_live_space *space)
{
	struct waiter w = { .space = space };
	cow_task_init(&w.task, &step_filled, over);
	cow_task_start(&w.task, space->loop, &step_fill);
	int ret = cow_loop_run_until(space->loop, &w.over);
	return ret ? ret : w.task.error ? w.task.error : take_over(space);
}

/* Under the freeze passes are held; a refill needs them, and what it changes is to be written. */
static int refill_frozen(struct cow_live_space *space)
{
	cow_assert(cow_gate_is_shut(&space->image->gate));
	cow_commit_resume(&space->image->core.commit, space->loop);
	int ret = refill(space);
	if (!ret)
		ret = cow_image_write_back(space->image, space->loop);
	int held = cow_freeze_hold_passes(space->image, space->loop);
	return ret ? ret : held;
}

enum where {
	ANYWHERE,
	FROM_END, /* behind all that is in use */
};

static int reserve_more(struct cow_live_space *space, uint32_t want, enum where where)
{
	space->reserve.goal_clusters = want;
	space->reserve.from_end = where == FROM_END;
	space->nr_refills++;
	if (space->brake)
		cow_live_brake_off(space->brake);
	return space->frozen ? refill_frozen(space) : refill(space);
}

/* ---- taking ---- */

static bool take_here(struct cow_live_run *run, uint32_t nr, unsigned bits, uint64_t *off)
{
	cow_assert(nr && run->used <= run->nr);
	if (run->nr - run->used < nr)
		return false;
	*off = (run->cluster + run->used) << bits;
	run->used += nr;
	return true;
}

int cow_live_space_take(struct cow_live_space *space, uint64_t *off)
{
	unsigned bits = space->image->core.g.cluster_bits;
	for (;;) {
		for (; space->at < space->nr; space->at++)
			if (take_here(&space->runs[space->at], 1, bits, off))
				return 0;
		int ret = reserve_more(space, AHEAD_CLUSTERS, ANYWHERE);
		if (ret)
			return ret;
	}
}

static bool find_run(struct cow_live_space *space, unsigned from, uint32_t nr, uint64_t *off)
{
	for (unsigned i = from; i < space->nr; i++)
		if (take_here(&space->runs[i], nr, space->image->core.g.cluster_bits, off))
			return true;
	return false;
}

/* Where free clusters are scattered, behind all others; a new refcount block may cut that once. */
int cow_live_space_take_run(struct cow_live_space *space, uint32_t nr, uint64_t *off)
{
	if (find_run(space, space->at, nr, off))
		return 0;
	for (unsigned i = 0; i < 3; i++) {
		int ret = i ? reserve_more(space, 2 * nr, FROM_END)
			    : reserve_more(space, nr, ANYWHERE);
		if (ret)
			return ret;
		if (find_run(space, space->at, nr, off))
			return 0;
	}
	return -ENOSPC;
}

int cow_live_space_prepare(struct cow_live_space *space)
{
	uint64_t left = 0;
	cow_assert(!space->frozen);
	for (unsigned i = space->at; i < space->nr; i++)
		left += space->runs[i].nr - space->runs[i].used;
	return left < SPARE_CLUSTERS ? reserve_more(space, AHEAD_CLUSTERS, ANYWHERE) : 0;
}

/* ---- giving back ---- */

int cow_live_space_free(struct cow_live_space *space, uint64_t cluster, uint64_t nr)
{
	struct cow_quarantine *q = &space->image->quarantine;
	unsigned full = atomic_load(&q->nr_full);
	cow_assert(nr && !space->frozen); /* the release is held then */
	/* A snapshot's clusters are many: requests that free a few go before them. */
	while (!cow_quarantine_reserve_many(q, 1)) {
		if (cow_core_is_failed(&space->image->core))
			return -EIO;
		if (atomic_load(&q->nr_full) - full > FULL_TRIES)
			return -ENOSPC;
		atomic_store(&q->hurry, true);
		cow_quarantine_kick(q, space->loop);
		int ret = cow_freeze_nap(space->loop);
		if (ret)
			return ret;
	}
	cow_assert(nr < 1u << 30);
	cow_quarantine_add(q, cluster, (uint32_t)nr);
	cow_quarantine_unreserve(q, 1);
	return 0;
}

void cow_live_space_undo(struct cow_live_space *space)
{
	for (unsigned i = 0; i < space->nr; i++)
		space->runs[i].used = 0;
}

void cow_live_space_fini(struct cow_live_space *space)
{
	int ret = cow_core_is_failed(&space->image->core) ? -EIO : 0;
	for (unsigned i = 0; i < space->nr && !ret; i++) {
		const struct cow_live_run *run = &space->runs[i];
		if (run->nr > run->used)
			ret = cow_live_space_free(space, run->cluster + run->used,
						  run->nr - run->used);
	}
	free(space->runs);
	cow_assert(!space->reserve.refilling);
}

/* ---- what requests have freed ---- */

static bool is_drained(struct cow_image *image)
{
	return cow_quarantine_extents(&image->quarantine) <= DRAINED_EXTENTS &&
	       !cow_freeze_refills(image);
}

int cow_live_space_drain(struct cow_live_space *space, const atomic_bool *cancel)
{
	struct cow_quarantine *q = &space->image->quarantine;
	uint64_t end = cow_loop_now(space->loop) + DRAIN_NS;
	int ret = 0;
	while (!ret && !is_drained(space->image) && cow_loop_now(space->loop) < end &&
	       !(cancel && atomic_load(cancel))) {
		atomic_store(&q->hurry, true);
		cow_quarantine_kick(q, space->loop);
		ret = cow_freeze_nap(space->loop);
	}
	return ret;
}
