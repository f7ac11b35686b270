/* SPDX-License-Identifier: MIT */
/*
 * The release task, linear from top to bottom:
 *   delay -> unlinks durable -> take a batch -> its epoch passed -> refcounts fall -> written -> punch -> drop -> next batch
 * Large batches need several rounds of the middle part. ENOSPC in a writeback repeats that step
 * after a delay.
 */
#include "engine/space/release.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/container.h"
#include "engine/base/math.h"
#include "engine/meta/meta.h"
#include "engine/meta/refcount.h"
#include "engine/space/alloc.h"

#define TICK_NS (20ull * 1000 * 1000)
#define GATHER_NS                                                                                  \
	(100ull * 1000 * 1000) /* after a FLUSH made the unlinks durable, or a full host */
#define FORCE_NS (2000ull * 1000 * 1000) /* without a FLUSH, until we have a pass of our own */

static const struct cow_step step_begin, step_delay, step_unlinks, step_take, step_epoch, step_fall,
	step_written, step_punch, step_punched, step_more, step_unwind;

static struct cow_quarantine *of(struct cow_task *task)
{
	return cow_container_of(task, struct cow_quarantine, task);
}

static void timer_done(struct cow_io *io)
{
	struct cow_quarantine *q = cow_container_of(io, struct cow_quarantine, timer);
	cow_task_io_done(&q->task, 0);
}

static bool must_leave(struct cow_quarantine *q)
{
	for (unsigned i = 0; i <= COW_MAX_QUEUES; i++)
		if (atomic_load(&q->leaving[i]) == q->task.loop)
			return true;
	return false;
}

/* What each step of the task stands on: it runs, and nobody else changes that. */
COW_NO_ANALYSIS
static void stand_on_running(const struct cow_quarantine *q)
{
	cow_assert(q->running);
}

/* What each step with a batch stands on: it is the first entries of the ring. */
static void stand_on_batch(const struct cow_quarantine *q)
{
	stand_on_running(q);
	cow_assert(q->nr_batch && q->batch_ring == q->nr_batch);
	cow_assert(q->nr_batch <= q->limits->release_batch);
}

/* And once its refcounts fall. */
static void stand_on_fall(const struct cow_quarantine *q)
{
	stand_on_batch(q);
	cow_assert(q->batch_idx <= q->nr_batch);
	cow_assert(q->batch_idx == q->nr_batch || q->batch_done < q->batch[q->batch_idx].nr);
	cow_assert(q->nr_punch <= q->limits->release_batch);
}

/* Unlinks that somebody's FLUSH has made durable. */
static bool has_durable(struct cow_quarantine *q)
{
	cow_mutex_lock(&q->lock);
	bool durable = q->durable > q->head;
	cow_mutex_unlock(&q->lock);
	return durable;
}

static enum cow_next release_begin(struct cow_task *task)
{
	of(task)->waiting_since = 0;
	return cow_task_goto(task, &step_delay);
}

/*
 * Frees come in bursts, and a release costs a pass: gather them. A guest that flushes now and then
 * makes the unlinks durable for us; for one that does not we do it ourselves after a while.
 */
static enum cow_next release_delay(struct cow_task *task)
{
	struct cow_quarantine *q = of(task);
	stand_on_running(q);
	if (task->pending)
		return cow_task_wait_io(task);
	if (must_leave(q))
		/* a batch that is half done goes on when the task is started again */
		return COW_END;
	bool durable = !q->batch_ring && has_durable(q);
	uint64_t now = cow_loop_now(task->loop);
	if (!q->waiting_since)
		q->waiting_since = now;
	uint64_t waited = now - q->waiting_since;
	if (atomic_load(&q->hurry) || waited >= FORCE_NS ||
	    (waited >= GATHER_NS && (durable || q->batch_ring))) {
		q->waiting_since = 0;
		return cow_task_goto(task, q->batch_ring ? &step_fall
					   : durable	 ? &step_take
							 : &step_unlinks);
	}
	cow_io_prep(&q->timer, COW_IO_TIMER, NULL, TICK_NS, 0, timer_done);
	task->pending++;
	cow_loop_submit(task->loop, &q->timer);
	return cow_task_wait_io(task);
}

static enum cow_next release_unlinks(struct cow_task *task)
{
	struct cow_quarantine *q = of(task);
	task->step = &step_take;
	cow_mutex_lock(&q->lock);
	bool durable = q->durable == q->tail;
	cow_mutex_unlock(&q->lock);
	if (durable)
		return COW_AGAIN;
	cow_commit_join(&q->core->commit, task);
	return COW_WAIT;
}

static enum cow_next release_take(struct cow_task *task)
{
	struct cow_quarantine *q = of(task);
	cow_assert(!q->batch_ring); /* what was taken before is released */
	cow_mutex_lock(&q->lock);
	q->nr_batch = 0;
	while (q->head + q->nr_batch < q->durable && q->nr_batch < q->limits->release_batch) {
		q->batch[q->nr_batch] = q->ring[(q->head + q->nr_batch) % q->limits->ring];
		q->nr_batch++;
	}
	q->batch_ring = q->nr_batch;
	bool all_done = q->head == q->tail;
	cow_mutex_unlock(&q->lock);
	if (all_done)
		return COW_END;
	if (q->nr_batch)
		return cow_task_goto(task, &step_epoch);
	q->waiting_since = 0;
	return cow_task_goto(task, &step_delay);
}

static int freed_cmp(const void *a, const void *b)
{
	uint64_t x = ((const struct cow_freed *)a)->cluster,
		 y = ((const struct cow_freed *)b)->cluster;
	return x < y ? -1 : x > y;
}

/*
 * The union of the batch's extents. Compressed clusters share host clusters, so extents may
 * overlap.
 */
static void block_batch_locked(struct cow_quarantine *q) COW_REQUIRES(quarantine, q->lock);
static void block_batch_locked(struct cow_quarantine *q)
{
	cow_assert(!q->nr_blocked);
	for (unsigned i = 0; i < q->nr_batch; i++) {
		cow_assert(!i || q->batch[i - 1].cluster <= q->batch[i].cluster);
		uint64_t start = q->batch[i].cluster, end = start + q->batch[i].nr;
		struct cow_host_run *last = q->nr_blocked ? &q->blocked[q->nr_blocked - 1] : NULL;
		if (last && start <= last->cluster + last->nr) {
			uint64_t last_end = last->cluster + last->nr;
			last->nr = cow_max(end, last_end) - last->cluster;
		} else {
			q->blocked[q->nr_blocked++] =
				(struct cow_host_run){ .cluster = start, .nr = end - start };
		}
	}
}

static enum cow_next release_epoch(struct cow_task *task)
{
	struct cow_quarantine *q = of(task);
	stand_on_batch(q);
	uint64_t epoch = q->batch[q->nr_batch - 1].epoch;
	if (cow_quarantine_wait_epoch(q, epoch, task))
		return COW_WAIT;
	qsort(q->batch, q->nr_batch, sizeof(*q->batch), freed_cmp);
	cow_mutex_lock(&q->lock);
	block_batch_locked(q);
	cow_mutex_unlock(&q->lock);
	q->batch_idx = 0;
	q->batch_done = 0;
	q->nr_punch = 0;
	return cow_task_goto(task, &step_fall);
}

static void want_punch(struct cow_quarantine *q, uint64_t cluster)
{
	struct cow_host_run *last = q->nr_punch ? &q->punch[q->nr_punch - 1] : NULL;
	if (last && last->cluster + last->nr == cluster)
		last->nr++;
	else
		q->punch[q->nr_punch++] = (struct cow_host_run){ .cluster = cluster, .nr = 1 };
}

/*
 * One reference less on the batch's next clusters, as far as this slice goes. NULL or the rule that
 * the next one breaks.
 */
static const char *fall_in_slot(struct cow_quarantine *q, struct cow_slot *slot)
{
	struct cow_geometry *g = &q->core->g;
	struct cow_freed *f = &q->batch[q->batch_idx];
	while (f->nr > q->batch_done && q->nr_punch < q->limits->release_batch) {
		uint64_t cluster = f->cluster + q->batch_done;
		uint64_t idx = cluster % g->refs_per_slice;
		uint64_t refs = cow_refcount_get(slot->data, g->refcount_order, idx);
		if (!refs)
			return "a cluster in use has refcount 0";
		/*
		 * Broken entries may have led here from the guest's data; what is live is neither
		 * punched nor reused.
		 */
		if (refs == 1 && cow_overlap(q->meta, cluster << g->cluster_bits, g->cluster_bytes))
			return "live metadata was freed as if it were data";
		cow_refcount_set(slot->data, g->refcount_order, idx, refs - 1);
		if (refs == 1)
			want_punch(q, cluster);
		q->batch_done++;
		if (idx == g->refs_per_slice - 1)
			break;
	}
	return NULL;
}

static enum cow_next release_refcounts_fall(struct cow_task *task)
{
	struct cow_quarantine *q = of(task);
	stand_on_fall(q);
	while (q->batch_idx < q->nr_batch && q->nr_punch < q->limits->release_batch) {
		struct cow_freed *f = &q->batch[q->batch_idx];
		uint64_t cluster = f->cluster + q->batch_done;
		struct cow_slot *slot = NULL;
		enum cow_refs_result r = cow_refcount_slot(q->meta, cluster, task, &slot);
		if (r == COW_REFS_PARKED)
			return COW_WAIT;
		if (r == COW_REFS_READY && !cow_cache_may_dirty(slot, task))
			return COW_WAIT;
		const char *fault = r == COW_REFS_READY ? fall_in_slot(q, slot)
							: "a cluster in use has no refcount";
		if (r == COW_REFS_READY)
			cow_cache_put_dirty(slot);
		if (fault) {
			cluster = f->cluster + q->batch_done;
			cow_task_fail(task,
				      cow_core_corrupt(q->core, task->loop,
						       cluster << q->core->g.cluster_bits, fault));
			return COW_AGAIN;
		}
		if (q->batch_done == f->nr) {
			q->batch_idx++;
			q->batch_done = 0;
		}
	}
	task->step = &step_written;
	cow_commit_join(&q->core->commit, task);
	return COW_WAIT;
}

static enum cow_next release_written(struct cow_task *task)
{
	struct cow_quarantine *q = of(task);
	stand_on_fall(q);
	cow_assert(!task->pending);
	q->punch_idx = q->core->no_discard ? q->nr_punch : 0;
	return cow_task_goto(task, &step_punch);
}

static void punch_done(struct cow_io *io)
{
	struct cow_punch *p = (struct cow_punch *)io;
	cow_assert(p->busy);
	p->busy = false;
	/*
	 * A hole that could not be punched costs space, not data; the allocator punches or
	 * overwrites before it reuses.
	 */
	cow_task_io_done(&p->quarantine->task, 0);
}

static enum cow_next release_punch(struct cow_task *task)
{
	struct cow_quarantine *q = of(task);
	unsigned bits = q->core->g.cluster_bits;
	stand_on_fall(q);
	cow_assert(q->punch_idx <= q->nr_punch);
	for (unsigned i = 0; i < q->limits->release_punches && q->punch_idx < q->nr_punch; i++) {
		struct cow_punch *p = &q->punches[i];
		if (p->busy)
			continue;
		struct cow_host_run *run = &q->punch[q->punch_idx++];
		uint64_t off = cow_round_up(run->cluster << bits, COW_PUNCH_ALIGN_BYTES);
		uint64_t end =
			cow_round_down((run->cluster + run->nr) << bits, COW_PUNCH_ALIGN_BYTES);
		if (off >= end)
			continue;
		p->busy = true;
		cow_io_prep(&p->io, COW_IO_PUNCH, q->core->file, off, end - off, punch_done);
		task->pending++;
		cow_loop_submit(task->loop, &p->io);
	}
	if (task->pending)
		return cow_task_wait_io(task);
	if (q->punch_idx < q->nr_punch)
		return COW_AGAIN;
	return cow_task_goto(task, &step_punched);
}

/* Those who wait for room in the ring, or for clusters. */
static void wake_waiters(struct cow_quarantine *q, int error)
{
	struct cow_waitlist wake;
	cow_waitlist_init(&wake);
	cow_mutex_lock(&q->lock);
	cow_waitlist_take(&q->full, &wake);
	cow_waitlist_take(&q->freed, &wake);
	cow_mutex_unlock(&q->lock);
	cow_waitlist_wake(&wake, error);
}

static enum cow_next release_punched(struct cow_task *task)
{
	struct cow_quarantine *q = of(task);
	stand_on_fall(q);
	cow_assert(!task->pending && q->punch_idx == q->nr_punch);
	q->nr_punch = 0;
	if (q->batch_idx < q->nr_batch)
		return cow_task_goto(task, &step_fall);
	cow_mutex_lock(&q->lock);
	q->head += q->batch_ring;
	cow_assert(q->head <= q->durable);
	q->batch_ring = 0;
	q->nr_blocked = 0;
	cow_mutex_unlock(&q->lock);
	cow_alloc_freed(q->alloc, q->batch, q->nr_batch);
	cow_mutex_lock(&q->lock);
	atomic_store(&q->released, q->head);
	cow_mutex_unlock(&q->lock);
	wake_waiters(q, 0);
	/*
	 * If some came meanwhile gather again, or each pass would release the few frees of the one
	 * before.
	 */
	return cow_task_goto(task, &step_more);
}

static enum cow_next release_more(struct cow_task *task)
{
	struct cow_quarantine *q = of(task);
	cow_mutex_lock(&q->lock);
	uint64_t left = q->tail - q->head;
	bool full_batch = q->durable - q->head >= q->limits->release_batch;
	cow_mutex_unlock(&q->lock);
	return cow_task_goto(task, !left || full_batch ? &step_take : &step_delay);
}

static enum cow_next release_unwind(struct cow_task *task)
{
	struct cow_quarantine *q = of(task);
	stand_on_running(q);
	cow_assert(task->error);
	if (task->pending)
		return cow_task_wait_io(task);
	if (!cow_core_is_failed(q->core) && task->error == -ENOSPC && atomic_load(&q->closing)) {
		cow_mutex_lock(&q->lock);
		q->head = q->durable = q->captured = q->tail;
		q->batch_ring = 0;
		q->nr_blocked = 0;
		q->leaked = true;
		cow_mutex_unlock(&q->lock);
		return COW_END;
	}
	if (!cow_core_is_failed(q->core) && task->error == -ENOSPC) {
		atomic_fetch_add(&q->nr_full, 1);
		task->error = 0;
		q->waiting_since = 0;
		atomic_store(&q->hurry, false);
		wake_waiters(q, -ENOSPC); /* nobody knows when the host will have room */
		return cow_task_goto(task, &step_delay);
	}
	if (!cow_core_is_failed(q->core))
		cow_core_fail(q->core, task->loop, "cannot update refcounts: %s",
			      strerror(-task->error));
	wake_waiters(q, -EIO);
	return COW_END;
}

static const struct cow_step step_begin = { "release: begin", release_begin };
static const struct cow_step step_delay = { "release: delay", release_delay };
static const struct cow_step step_unlinks = { "release: unlinks", release_unlinks };
static const struct cow_step step_take = { "release: take", release_take };
static const struct cow_step step_epoch = { "release: epoch", release_epoch };
static const struct cow_step step_fall = { "release: refcounts fall", release_refcounts_fall };
static const struct cow_step step_written = { "release: written", release_written };
static const struct cow_step step_punch = { "release: punch", release_punch };
static const struct cow_step step_punched = { "release: punched", release_punched };
static const struct cow_step step_more = { "release: more", release_more };
static const struct cow_step step_unwind = { "release: unwind", release_unwind };

/* Once `running` is false another thread may start the task: nothing is touched after that. */
static void end(struct cow_task *task)
{
	struct cow_quarantine *q = of(task);
	struct cow_loop *loop = task->loop;
	cow_mutex_lock(&q->lock);
	cow_assert(!q->held);
	bool again = q->head != q->tail && !cow_core_is_failed(q->core) && !must_leave(q);
	if (!again) {
		if (q->head == q->tail)
			atomic_store(&q->hurry, false);
		q->running = false;
	}
	cow_mutex_unlock(&q->lock);
	if (again)
		cow_task_post(&q->task, loop, &step_begin);
}

void cow_release_init(struct cow_quarantine *q, struct cow_meta *meta, struct cow_alloc *alloc)
{
	q->meta = meta;
	q->alloc = alloc;
	q->first_step = &step_begin;
	cow_task_init(&q->task, &step_unwind, end);
	for (unsigned i = 0; i < COW_RELEASE_PUNCHES; i++)
		q->punches[i].quarantine = q;
}
