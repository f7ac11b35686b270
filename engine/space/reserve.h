/* SPDX-License-Identifier: MIT */
/*
 * The queue's side of allocation: taking from its reservation, without a lock. The task that fills
 * it is the refill (refill.h), which hands in its first step when it is set up: here nobody knows
 * more of it.
 */
#ifndef COW_RESERVE_H
#define COW_RESERVE_H

#include "engine/base/container.h"
#include "engine/space/alloc.h"

#define COW_RESERVE_MIN_CLUSTERS 4u

/* A queue's reservation and the task that fills it. Owner thread only. */
struct cow_reserve {
	struct cow_alloc *alloc;
	struct cow_reserved extents[COW_RESERVE_EXTENTS];
	unsigned nr, pos;	/* extents[pos..nr) are left */
	uint32_t goal_clusters; /* next refill's size; doubles */
	bool from_end;		/* look behind all that was ever used, for a long run */
	struct cow_waitlist waiters;

	/* the refill (refill.c) */
	struct cow_task task;
	const struct cow_step *first_step; /* of the refill; constant */
	atomic_bool refilling;		   /* written by the owner only */
	bool has_baton;
	uint64_t freed_seen; /* cow_quarantine_released() when it had the baton */
	struct cow_reserved fresh[COW_RESERVE_EXTENTS];
	unsigned nr_fresh, fresh_idx;
	uint32_t fresh_clusters;
	uint64_t scan;	   /* next host cluster to look at */
	uint64_t block;	   /* the refcount block that is scanned; NONE: from the tail on */
	bool looked;	   /* at some unknown blocks */
	bool tail_is_full; /* nothing can be had there */
	const struct cow_step *after_look;
	uint64_t new_block; /* index of a refcount block being made */
	const struct cow_step *after_extend;
	struct cow_io io;
	/* a larger refcount table being made (reftable_grow.c) */
	struct {
		uint64_t at; /* first host cluster: blocks, then the table */
		uint64_t blocks, clusters;
		uint64_t done;			      /* clusters written */
		const struct cow_step *next, *unwind; /* of who wants it */
	} grow;
};

/* Of the task that fills it. */
static inline struct cow_reserve *cow_reserve_of(struct cow_task *task)
{
	return cow_container_of(task, struct cow_reserve, task);
}
/* For r->io: the task goes on. */
void cow_reserve_io_done(struct cow_io *io);

/* Empty. To be filled it needs cow_refill_init() as well. */
void cow_reserve_init(struct cow_reserve *reserve, struct cow_alloc *alloc);

/*
 * Take up to want consecutive clusters. Returns their number; *out is the first one, *zero whether
 * they read as zeros. 0: none at hand, the task is parked until there are (or fails with -ENOSPC);
 * the refill is on its way. No locks held in that case.
 */
uint32_t cow_reserve_take(struct cow_reserve *reserve, uint32_t want, struct cow_hoff *out,
			  bool *zero, struct cow_task *task);
/* Nothing is left: park until there is. Return COW_WAIT. */
void cow_reserve_wait(struct cow_reserve *reserve, struct cow_task *task);
/* What would be taken next, without taking: false if nothing is at hand. */
bool cow_reserve_peek(const struct cow_reserve *reserve, bool *zero);
/* Hand back clusters whose use failed; their content is unknown now. */
void cow_reserve_return(struct cow_reserve *reserve, struct cow_hoff off, uint32_t nr);

#endif
