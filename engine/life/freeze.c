/* SPDX-License-Identifier: MIT */
/* See freeze.h. */
#include "engine/life/freeze.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/life/chain.h"
#include "engine/base/log.h"
#include "engine/life/close.h"
#include "engine/life/open.h"
#include "engine/request/op.h"
#include "engine/request/queue.h"

#define POLL_NS (200ull * 1000)
#define RELOAD_TRIES 3u

/* ---- polling: a freeze is rare, so nobody is made to notify it ---- */

struct nap {
	struct cow_io io;
	bool over;
};

static void nap_done(struct cow_io *io)
{
	((struct nap *)io)->over = true;
}

int cow_freeze_nap(struct cow_loop *loop)
{
	struct nap n = { .over = false };
	cow_io_prep(&n.io, COW_IO_TIMER, NULL, POLL_NS, 0, nap_done);
	cow_loop_submit(loop, &n.io);
	return cow_loop_run_until(loop, &n.over);
}

/* No request runs, and no refill. */
static bool queues_idle(struct cow_image *image)
{
	bool idle = true;
	cow_mutex_lock(&image->queues_lock);
	for (unsigned i = 0; i < COW_MAX_QUEUES; i++) {
		struct cow_queue *queue = image->queues[i];
		if (queue &&
		    (atomic_load(&queue->running) || atomic_load(&queue->reserve.refilling)))
			idle = false;
	}
	cow_mutex_unlock(&image->queues_lock);
	return idle;
}

bool cow_freeze_refills(struct cow_image *image)
{
	bool yes = false;
	cow_mutex_lock(&image->queues_lock);
	for (unsigned i = 0; i < COW_MAX_QUEUES && !yes; i++)
		yes = image->queues[i] && atomic_load(&image->queues[i]->reserve.refilling);
	cow_mutex_unlock(&image->queues_lock);
	return yes;
}

/* A request may be waiting for freed clusters on a full host. */
static int wait_for_queues(struct cow_image *image, struct cow_loop *loop)
{
	unsigned full = atomic_load(&image->quarantine.nr_full);
	int ret = 0;
	while (!ret && !queues_idle(image))
		ret = atomic_load(&image->quarantine.nr_full) - full > 3 ? -ENOSPC
									 : cow_freeze_nap(loop);
	return ret;
}

/*
 * Until nothing freed is on its way any more; no request runs, so nothing new comes but from queues
 * that leave, and that is held back.
 */
static int wait_for_release(struct cow_image *image, struct cow_loop *loop)
{
	struct cow_quarantine *q = &image->quarantine;
	unsigned full = atomic_load(&q->nr_full);
	for (;;) {
		if (cow_core_is_failed(&image->core))
			return -EIO;
		if (atomic_load(&q->nr_full) - full > 3)
			return -ENOSPC;
		if (cow_commit_idle(&image->core.commit) && cow_quarantine_hold(q))
			return 0;
		atomic_store(&q->hurry, true);
		cow_quarantine_kick(q, loop);
		int ret = cow_freeze_nap(loop);
		if (ret)
			return ret;
	}
}

int cow_freeze_hold_passes(struct cow_image *image, struct cow_loop *loop)
{
	int ret = 0;
	while (!ret && !cow_commit_hold(&image->core.commit))
		ret = cow_freeze_nap(loop);
	return ret;
}

static int settle(struct cow_image *image, struct cow_loop *loop)
{
	int ret = wait_for_queues(image, loop);
	if (!ret)
		ret = wait_for_release(image, loop);
	if (!ret)
		ret = cow_image_write_back(image, loop);
	return ret ? ret : cow_freeze_hold_passes(image, loop);
}

/*
 * The caller's loop may go when we return: the engine's own tasks that we started on it end, or go
 * on elsewhere.
 */
void cow_freeze_leave_loop(struct cow_image *image, struct cow_loop *loop)
{
	struct cow_quarantine *q = &image->quarantine;
	atomic_store(&q->leaving[COW_MAX_QUEUES], loop);
	while (cow_quarantine_runs_on(q, loop) || cow_commit_runs_on(&image->core.commit, loop))
		if (cow_freeze_nap(loop))
			break;
	atomic_store(&q->leaving[COW_MAX_QUEUES], NULL);
	cow_queue_hand_over_release(image);
}

static void thaw(struct cow_image *image, struct cow_loop *loop)
{
	cow_assert(cow_gate_is_shut(&image->gate));
	cow_quarantine_resume(&image->quarantine);
	cow_commit_resume(&image->core.commit, loop);
	cow_gate_open(&image->gate);
}

/*
 * Without its tables nothing of the image can be found: not even reads go on then. A host's error
 * may pass.
 */
static int load_anew(struct cow_image *image, struct cow_loop *loop, struct cow_error *err)
{
	int ret = -EIO;
	for (unsigned i = 0; ret && i < RELOAD_TRIES; i++) {
		struct cow_error own = { 0 };
		ret = cow_image_reload(image, loop, &own);
		if (ret)
			cow_log(COW_LOG_WARNING, "%s: cannot be loaded anew: %s", image->core.path,
				own.code ? own.text : strerror(-ret));
	}
	if (!ret)
		return 0;
	atomic_store(&image->core.unreadable, true);
	cow_core_fail(&image->core, loop,
		      "cannot be loaded anew after a change of the whole image");
	cow_log(COW_LOG_ERR, "%s: nothing can be read any more: detach it and attach it again",
		image->core.path);
	return cow_error_set(err, ret, "%s: changed, but cannot be loaded anew: %s",
			     image->core.path, strerror(-ret));
}

/* How the change deals with space. */
enum space { SPACE_BY_ALLOCATOR, SPACE_BEHIND_OUR_BACK };

static int run_frozen(struct cow_image *image, struct cow_loop *loop, cow_frozen_fn *change,
		      void *ctx, enum space space, struct cow_error *err)
{
	int ret = settle(image, loop);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot write everything back: %s",
				     image->core.path, strerror(-ret));
	/* nothing runs, and the file is all there is */
	cow_assert(cow_gate_is_shut(&image->gate) && cow_commit_idle(&image->core.commit));
	cow_assert(!cow_cache_is_dirty(&image->meta.l2) && !cow_cache_is_dirty(&image->meta.refs));
	ret = change(ctx, loop, image->core.file, err);
	if (ret == -ENOTRECOVERABLE)
		cow_core_fail(&image->core, loop,
			      "a change of the whole image may have reached the disk in part");
	/*
	 * A change by the allocator that failed has changed nothing that memory does not know, and
	 * may leave metadata dirty that a failed pass could not write.
	 */
	if (ret && space == SPACE_BY_ALLOCATOR)
		return ret;
	int again = load_anew(image, loop, err);
	if (space == SPACE_BEHIND_OUR_BACK)
		cow_alloc_restart(&image->alloc, image->core.file->size_bytes);
	return ret ? ret : again;
}

static int freeze(struct cow_image *image, struct cow_loop *loop, cow_frozen_fn *change, void *ctx,
		  enum space space, uint64_t *pause_ns, struct cow_error *err)
{
	uint64_t start = cow_loop_now(loop);
	cow_gate_shut(&image->gate);
	int ret = run_frozen(image, loop, change, ctx, space, err);
	thaw(image, loop);
	if (pause_ns)
		*pause_ns = cow_loop_now(loop) - start;
	cow_freeze_leave_loop(image, loop);
	return ret;
}

int cow_freeze_begin(struct cow_image *image, struct cow_error *err)
{
	if (!image->core.writable || cow_core_is_failed(&image->core))
		return cow_error_set(err, -EROFS, "%s: the image is not writable",
				     image->core.path);
	if (atomic_exchange(&image->gate.changing, true))
		return cow_error_set(err, -EBUSY,
				     "%s: another change of the whole image is under way",
				     image->core.path);
	return 0;
}

void cow_freeze_end(struct cow_image *image)
{
	cow_assert(atomic_load(&image->gate.changing));
	atomic_store(&image->gate.changing, false);
}

int cow_freeze_switch(struct cow_image *image, struct cow_loop *loop, cow_frozen_fn *change,
		      void *ctx, uint64_t *pause_ns, struct cow_error *err)
{
	return freeze(image, loop, change, ctx, SPACE_BY_ALLOCATOR, pause_ns, err);
}

int cow_freeze_rewrite(struct cow_image *image, struct cow_loop *loop, cow_frozen_fn *change,
		       void *ctx, uint64_t *pause_ns, struct cow_error *err)
{
	return freeze(image, loop, change, ctx, SPACE_BEHIND_OUR_BACK, pause_ns, err);
}

int cow_image_change_frozen(struct cow_image *image, struct cow_loop *loop, cow_frozen_fn *change,
			    void *ctx, uint64_t *pause_ns, struct cow_error *err)
{
	int ret = cow_freeze_begin(image, err);
	if (ret)
		return ret;
	ret = cow_freeze_rewrite(image, loop, change, ctx, pause_ns, err);
	cow_freeze_end(image);
	return ret;
}
