/* SPDX-License-Identifier: MIT */
/*
 * The ring of freed extents: what ops and writeback see. The task that empties it is in release.c.
 */
#include "engine/space/quarantine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/math.h"
#include "engine/core/core.h"

static void captured(void *ctx);
static void completed(void *ctx, bool ok);

int cow_quarantine_init(struct cow_quarantine *q, struct cow_core *core, struct cow_epoch *epoch)
{
	memset(q, 0, sizeof(*q));
	q->core = core;
	q->epoch = epoch;
	q->limits = &core->limits;
	cow_mutex_init(&q->lock, COW_RANK_QUARANTINE);
	cow_waitlist_init(&q->full);
	cow_waitlist_init(&q->freed);
	cow_waitlist_init(&q->epoch_waiter);
	q->ring = calloc(q->limits->ring, sizeof(*q->ring));
	q->blocked = calloc(q->limits->release_batch, sizeof(*q->blocked));
	q->batch = calloc(q->limits->release_batch, sizeof(*q->batch));
	q->punch = calloc(q->limits->release_batch, sizeof(*q->punch));
	if (!q->ring || !q->blocked || !q->batch || !q->punch)
		return -ENOMEM;
	core->commit.watch = (struct cow_commit_watch){ captured, completed, q };
	return 0;
}

void cow_quarantine_fini(struct cow_quarantine *q)
{
	free(q->ring);
	free(q->blocked);
	free(q->batch);
	free(q->punch);
	q->ring = NULL;
	q->blocked = NULL;
	q->batch = NULL;
	q->punch = NULL;
}

/* The most that a request needs to go on at all (pack.c). */
#define LEAST_MAX 8u

static unsigned room_locked(const struct cow_quarantine *q) COW_REQUIRES(quarantine, q->lock);
static unsigned room_locked(const struct cow_quarantine *q)
{
	cow_assert(q->tail - q->head <= q->limits->ring);
	uint64_t taken = q->tail - q->head + q->reserved + q->limits->ring_own;
	return taken < q->limits->ring ? (unsigned)(q->limits->ring - taken) : 0;
}

/* What who frees many leaves for the others. */
static unsigned kept_from_many(const struct cow_quarantine *q)
{
	return (unsigned)cow_max((q->limits->ring - q->limits->ring_own) / 8, LEAST_MAX);
}

static unsigned reserve(struct cow_quarantine *q, unsigned keep, unsigned least, unsigned most)
{
	cow_assert(most);
	cow_mutex_lock(&q->lock);
	unsigned room = room_locked(q), nr = 0;
	if (room >= keep + least)
		nr = (unsigned)cow_min(room - keep, most);
	q->reserved += nr;
	cow_mutex_unlock(&q->lock);
	return nr;
}

unsigned cow_quarantine_reserve(struct cow_quarantine *q, unsigned least, unsigned most)
{
	cow_assert(least && least <= most && least <= LEAST_MAX);
	return reserve(q, 0, least, most);
}

unsigned cow_quarantine_reserve_many(struct cow_quarantine *q, unsigned most)
{
	return reserve(q, kept_from_many(q), 1, most);
}

void cow_quarantine_unreserve(struct cow_quarantine *q, unsigned nr)
{
	struct cow_waitlist wake;
	cow_waitlist_init(&wake);
	cow_mutex_lock(&q->lock);
	cow_assert(q->reserved >= nr);
	q->reserved -= nr;
	/* enough for whoever waits; all of it comes back */
	if (!cow_waitlist_empty(&q->full) && room_locked(q) >= LEAST_MAX)
		cow_waitlist_take(&q->full, &wake);
	cow_mutex_unlock(&q->lock);
	cow_waitlist_wake(&wake, 0);
}

void cow_quarantine_wait(struct cow_quarantine *q, unsigned least, struct cow_task *task)
{
	struct cow_loop *loop = task->loop;
	cow_assert(!task->pending); /* it would end the wait */
	cow_mutex_lock(&q->lock);
	bool failed = cow_core_is_failed(q->core); /* nothing leaves the ring any more */
	bool park = !failed && room_locked(q) < least;
	if (park)
		cow_waitlist_park(&q->full, task, "room in the quarantine");
	cow_mutex_unlock(&q->lock);
	if (!park) {
		if (failed)
			cow_task_fail(task, -EIO);
		cow_task_yield(task);
		return;
	}
	atomic_store(&q->hurry, true);
	cow_quarantine_kick(q, loop);
}

void cow_quarantine_wait_many(struct cow_quarantine *q, struct cow_task *task)
{
	cow_quarantine_wait(q, kept_from_many(q) + 1, task);
}

bool cow_quarantine_wait_freed(struct cow_quarantine *q, uint64_t *until, uint64_t seen,
			       struct cow_task *task)
{
	struct cow_loop *loop = task->loop;
	cow_assert(!task->pending);
	cow_mutex_lock(&q->lock);
	if (!*until)
		*until = q->tail;
	bool again = seen < *until && !cow_core_is_failed(q->core);
	bool park = again && q->released == seen;
	if (park)
		cow_waitlist_park(&q->freed, task, "freed host clusters");
	cow_mutex_unlock(&q->lock);
	if (!again)
		return false;
	if (!park) {
		cow_task_yield(task);
		return true;
	}
	atomic_store(&q->hurry, true);
	cow_quarantine_kick(q, loop);
	return true;
}

static struct cow_freed *entry_locked(struct cow_quarantine *q, uint64_t i)
	COW_REQUIRES(quarantine, q->lock);
static struct cow_freed *entry_locked(struct cow_quarantine *q, uint64_t i)
{
	return &q->ring[i % q->limits->ring];
}

void cow_quarantine_add(struct cow_quarantine *q, uint64_t cluster, uint32_t nr)
{
	cow_assert(nr);
	cow_mutex_lock(&q->lock);
	/* under the lock: epochs never fall along the ring */
	uint64_t epoch = cow_epoch_now(q->epoch);
	struct cow_freed *last = q->tail > q->captured ? entry_locked(q, q->tail - 1) : NULL;
	if (last && last->epoch == epoch && last->cluster + last->nr == cluster &&
	    last->nr < 1u << 30) {
		last->nr += nr;
	} else {
		cow_assert(q->tail - q->head < q->limits->ring);
		*entry_locked(q, q->tail++) =
			(struct cow_freed){ .cluster = cluster, .epoch = epoch, .nr = nr };
	}
	cow_mutex_unlock(&q->lock);
}

void cow_quarantine_kick(struct cow_quarantine *q, struct cow_loop *loop)
{
	struct cow_waitlist wake;
	cow_waitlist_init(&wake);
	cow_mutex_lock(&q->lock);
	bool failed = cow_core_is_failed(q->core);
	bool start = !q->running && !q->held && q->tail != q->head && !failed;
	if (start) {
		q->running = true;
		q->loop = loop;
	}
	if (failed && !q->running) { /* whoever parked just before it failed: no room will come */
		cow_waitlist_take(&q->full, &wake);
		cow_waitlist_take(&q->freed, &wake);
	}
	cow_mutex_unlock(&q->lock);
	cow_waitlist_wake(&wake, -EIO);
	if (start)
		cow_task_post(&q->task, loop, q->first_step);
}

/* ---- writeback ---- */

/* Nothing is durable that no pass has captured; nothing leaves the ring that is not durable. */
static void stand_on_marks_locked(const struct cow_quarantine *q) COW_REQUIRES(quarantine, q->lock);
static void stand_on_marks_locked(const struct cow_quarantine *q)
{
	cow_assert(q->head <= q->durable);
	cow_assert(q->durable <= q->captured && q->captured <= q->tail);
}

static void captured(void *ctx)
{
	struct cow_quarantine *q = ctx;
	cow_mutex_lock(&q->lock);
	stand_on_marks_locked(q);
	cow_assert(q->captured == q->durable); /* one pass at a time */
	q->captured = q->tail;
	cow_mutex_unlock(&q->lock);
}

static void completed(void *ctx, bool ok)
{
	struct cow_quarantine *q = ctx;
	cow_mutex_lock(&q->lock);
	stand_on_marks_locked(q);
	if (ok)
		q->durable = q->captured;
	else
		q->captured = q->durable;
	cow_mutex_unlock(&q->lock);
}

/* ---- allocator ---- */

bool cow_quarantine_blocks(struct cow_quarantine *q, uint64_t cluster, uint64_t *until)
{
	cow_mutex_lock(&q->lock);
	unsigned lo = 0, hi = q->nr_blocked;
	while (lo < hi) { /* first run that ends after cluster */
		unsigned mid = (lo + hi) / 2;
		if (q->blocked[mid].cluster + q->blocked[mid].nr <= cluster)
			lo = mid + 1;
		else
			hi = mid;
	}
	bool blocked = lo < q->nr_blocked && q->blocked[lo].cluster <= cluster;
	if (blocked)
		*until = q->blocked[lo].cluster + q->blocked[lo].nr;
	cow_mutex_unlock(&q->lock);
	return blocked;
}

/* ---- end of ops ---- */

/*
 * The flag first, then the look: an op that ends in between sees the flag, and finds the task parked
 * under the lock. It stays: others may wait as well.
 */
bool cow_quarantine_wait_epoch(struct cow_quarantine *q, uint64_t epoch, struct cow_task *task)
{
	cow_assert(!task->pending); /* it would end the wait */
	cow_mutex_lock(&q->lock);
	atomic_store(&q->waiting_for_epoch, true);
	bool park = !cow_epoch_passed(q->epoch, epoch);
	if (park)
		cow_waitlist_park(&q->epoch_waiter, task, "requests of an old epoch");
	cow_mutex_unlock(&q->lock);
	return park;
}

void cow_quarantine_epoch_moved(struct cow_quarantine *q)
{
	struct cow_waitlist wake;
	cow_waitlist_init(&wake);
	cow_mutex_lock(&q->lock);
	cow_waitlist_take(&q->epoch_waiter, &wake);
	atomic_store(&q->waiting_for_epoch, false);
	cow_mutex_unlock(&q->lock);
	cow_waitlist_wake(&wake, 0);
}

bool cow_quarantine_hold(struct cow_quarantine *q)
{
	cow_mutex_lock(&q->lock);
	q->held = !q->running && q->head == q->tail;
	bool held = q->held;
	cow_mutex_unlock(&q->lock);
	return held;
}

void cow_quarantine_resume(struct cow_quarantine *q)
{
	cow_mutex_lock(&q->lock);
	q->held = false;
	cow_mutex_unlock(&q->lock);
}

bool cow_quarantine_idle(struct cow_quarantine *q)
{
	cow_mutex_lock(&q->lock);
	bool idle = !q->running && (q->head == q->tail || cow_core_is_failed(q->core));
	cow_mutex_unlock(&q->lock);
	return idle;
}

uint64_t cow_quarantine_extents(struct cow_quarantine *q)
{
	cow_mutex_lock(&q->lock);
	uint64_t nr = q->tail - q->head;
	cow_mutex_unlock(&q->lock);
	return nr;
}

bool cow_quarantine_runs_on(struct cow_quarantine *q, const struct cow_loop *loop)
{
	cow_mutex_lock(&q->lock);
	bool runs = q->running && q->loop == loop;
	cow_mutex_unlock(&q->lock);
	return runs;
}
