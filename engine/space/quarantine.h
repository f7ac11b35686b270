/* SPDX-License-Identifier: MIT */
/*
 * Freed host clusters on their way back to the allocator (DESIGN section 3, FORMAT.md section 4:
 * unlink in L2 | refcount falls | punch, then reusable).
 *
 * Extents stand in a ring in the order in which they were freed; four marks cut it:
 *
 *   head ........ durable ........ captured ........ tail
 *        unlinked and       unlink is in the    freed in memory only
 *        durable            running pass
 *
 * One release task per image takes [head, durable): waits until all ops that began before the free
 * are over, lets the refcounts fall, has that written, punches what fell to zero, and only then
 * drops the extents. Until then the allocator, which would see refcount 0, is told by
 * cow_quarantine_blocks() to keep off.
 *
 * Lock: quarantine->lock. May be taken under an L2 shard's lock.
 */
#ifndef COW_QUARANTINE_H
#define COW_QUARANTINE_H

#include "engine/base/mutex.h"
#include "engine/base/result.h"
#include "engine/core/limits.h"
#include "engine/space/epoch.h"
#include "engine/loop/task.h"

struct cow_alloc;
struct cow_core;
struct cow_meta;

struct cow_freed {
	uint64_t cluster; /* host cluster index */
	uint64_t epoch;	  /* when it was freed */
	uint32_t nr;
};

struct cow_host_run {
	uint64_t cluster, nr;
};

struct cow_punch {
	struct cow_io io;
	struct cow_quarantine *quarantine;
	bool busy;
};

struct cow_quarantine {
	/* constant */
	struct cow_core *core;
	struct cow_epoch *epoch;
	const struct cow_limits *limits;   /* core's */
	const struct cow_step *first_step; /* of the release task */
	struct cow_meta *meta;		   /* the release task's, as this one */
	struct cow_alloc *alloc;

	struct cow_mutex_quarantine lock;
	struct cow_freed *ring COW_PT_GUARDED_BY(quarantine);
	/* of the ring, ever growing; index is modulo its size */
	uint64_t head COW_GUARDED_BY(quarantine);
	uint64_t durable COW_GUARDED_BY(quarantine);
	uint64_t captured COW_GUARDED_BY(quarantine);
	uint64_t tail COW_GUARDED_BY(quarantine);
	unsigned reserved COW_GUARDED_BY(quarantine);	      /* room set aside by ops */
	struct cow_waitlist full COW_GUARDED_BY(quarantine);  /* waiting for room in the ring */
	struct cow_waitlist freed COW_GUARDED_BY(quarantine); /* for clusters to be released */
	bool running COW_GUARDED_BY(quarantine);	      /* the release task is started */
	/* it may not be: a change of the whole image */
	bool held COW_GUARDED_BY(quarantine);
	struct cow_loop *loop COW_GUARDED_BY(quarantine); /* where it runs */
	/* the release task and fills of kept clusters, waiting for ops to end */
	struct cow_waitlist epoch_waiter COW_GUARDED_BY(quarantine);
	/* sorted, disjoint: being released */
	struct cow_host_run *blocked COW_PT_GUARDED_BY(quarantine);
	unsigned nr_blocked COW_GUARDED_BY(quarantine);

	/* any thread */
	_Atomic uint64_t released; /* of the ring: all before it the allocator has */
	atomic_bool waiting_for_epoch;
	atomic_bool hurry;   /* release without delay (close, detach) */
	atomic_bool closing; /* do not wait for a full host */
	bool leaked;	     /* closing gave something up */
	/*
	 * loops that are about to go, the queues' and a freeze's: the task ends there, and goes on
	 * elsewhere
	 */
	_Atomic(struct cow_loop *) leaving[COW_MAX_QUEUES + 1];
	atomic_uint nr_full; /* how often a full host stopped the release */

	/* the release task's own */
	struct cow_task task;
	struct cow_freed *batch; /* sorted by cluster */
	unsigned nr_batch, batch_idx;
	uint32_t batch_done; /* clusters of batch[batch_idx] already decremented */
	uint64_t batch_ring; /* ring entries the batch stands for */
	struct cow_host_run *punch;
	unsigned nr_punch, punch_idx;
	struct cow_punch punches[COW_RELEASE_PUNCHES];
	struct cow_io timer;
	uint64_t waiting_since; /* nanoseconds; 0: not waiting */
};

/*
 * Of a writable image; is told from here on when writeback passes capture and complete. To be
 * emptied it needs cow_release_init() as well.
 */
COW_MUST_CHECK int cow_quarantine_init(struct cow_quarantine *q, struct cow_core *core,
				       struct cow_epoch *epoch);
void cow_quarantine_fini(struct cow_quarantine *q);

/*
 * Set room aside for `most` extents, or for what there is if that is `least` at least. Returns for
 * how many; 0: there is no such room now.
 */
unsigned cow_quarantine_reserve(struct cow_quarantine *q, unsigned least, unsigned most);
/*
 * The same for who frees many at once, and takes what it gets: a part of the ring stays for the
 * others, whose writes would wait for the whole of a long discard.
 */
unsigned cow_quarantine_reserve_many(struct cow_quarantine *q, unsigned most);
void cow_quarantine_unreserve(struct cow_quarantine *q, unsigned nr);
/*
 * Park the task until room for `least` may have come (or fail it: -ENOSPC if the host is too
 * full for a release, -EIO if the image has failed);
 * hurries the release. No locks held.
 */
void cow_quarantine_wait(struct cow_quarantine *q, unsigned least, struct cow_task *task);
void cow_quarantine_wait_many(struct cow_quarantine *q, struct cow_task *task);
/*
 * For a request that met a full host. What stood in the ring at the first call (*until: 0) may still
 * give it room: park the task until some of that is released (woken with the release's error if the host is
 * too full for it), and hurry; or have it run again at once if some was released after `seen`, what
 * cow_quarantine_released() said before the try. False: nothing of it is left. No locks held,
 * outside of any epoch.
 */
bool cow_quarantine_wait_freed(struct cow_quarantine *q, uint64_t *until, uint64_t seen,
			       struct cow_task *task);
/* Grows whenever the allocator gets clusters back. */
static inline uint64_t cow_quarantine_released(const struct cow_quarantine *q)
{
	return atomic_load_explicit(&q->released, memory_order_acquire);
}
/*
 * One reference less on each of nr host clusters, unlinked in memory just now under the slice's
 * lock. Ops have reserved the room; the engine's own few extents always fit.
 */
void cow_quarantine_add(struct cow_quarantine *q, uint64_t cluster, uint32_t nr);
/* Start the release task if there is something to do; no locks held. */
void cow_quarantine_kick(struct cow_quarantine *q, struct cow_loop *loop);

/*
 * ---- for the allocator: may cluster not be taken although its refcount is 0? *until: first cluster after the block ----
 */
bool cow_quarantine_blocks(struct cow_quarantine *q, uint64_t cluster, uint64_t *until);

/* Lets the release task look at the epochs again. */
void cow_quarantine_epoch_moved(struct cow_quarantine *q);
/*
 * Park the task until some request has ended, if one that began in this epoch or before runs. False:
 * none does. The task is in no epoch, nothing of it is pending, it holds no claim and no room.
 */
bool cow_quarantine_wait_epoch(struct cow_quarantine *q, uint64_t epoch, struct cow_task *task);
/* An op ended: the same if the task waits, which is seldom. */
static inline void cow_quarantine_op_ended(struct cow_quarantine *q)
{
	if (atomic_load(&q->waiting_for_epoch))
		cow_quarantine_epoch_moved(q);
}
/*
 * A change of the whole image: from now on no release starts, whoever kicks (a queue that leaves
 * frees its tail). False: one runs, or has something to do.
 */
bool cow_quarantine_hold(struct cow_quarantine *q);
/* The change is over; whoever calls kicks afterwards. */
void cow_quarantine_resume(struct cow_quarantine *q);
/* True when nothing is on its way and the task is not running. */
bool cow_quarantine_idle(struct cow_quarantine *q);
/* Freed and not released yet. */
uint64_t cow_quarantine_extents(struct cow_quarantine *q);
/* Is the release task running on this loop? */
bool cow_quarantine_runs_on(struct cow_quarantine *q, const struct cow_loop *loop);

#endif
