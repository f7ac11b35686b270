/* SPDX-License-Identifier: MIT */
/*
 * Allocation of host clusters.
 *
 * Each queue takes clusters from its own reservation, without a lock: some extents whose refcounts
 * were raised to 1 when they were reserved. When it is used up, the queue's refill task takes the
 * allocator's baton (one refill at a time per image), scans the refcounts for free clusters, marks
 * them, extends the file, makes recycled clusters read as zeros by punching them, and wakes who
 * waits. Unused reservations return at close; after a crash they are leaks.
 *
 * A refill ends with commit->ordered_data set: the next pass then puts a barrier before its L2
 * writes, so that the file's new length and the punches are durable before anything points there.
 *
 * Locks: alloc->lock guards the baton. What only the baton's holder may touch is marked so.
 */
#ifndef COW_ALLOC_H
#define COW_ALLOC_H

#include <stdatomic.h>

#include "engine/base/mutex.h"
#include "engine/core/limits.h"
#include "engine/format/geometry.h"
#include "engine/loop/task.h"
#include "engine/space/freemap.h"

struct cow_image;
struct cow_freed;
struct cow_table;
struct cow_queue;

/* Consecutive reserved host clusters. */
struct cow_reserved {
	uint64_t cluster;
	uint32_t nr;
	bool zero; /* reads as zeros on the host */
};

/*
 * The host file's length is a multiple of this while the image is open for writing (see refill.c).
 */
#define COW_FILE_ALIGN_BYTES (64u << 10)
/*
 * Punches keep to whole blocks of host file systems for the same reason: what is less is zeroed
 * through the page cache.
 */
#define COW_PUNCH_ALIGN_BYTES 4096u

#define COW_RESERVE_DEFAULT_BYTES (16u << 20)
#define COW_RESERVE_MIN_CLUSTERS 4u

/* A queue's reservation and the task that fills it. Owner thread only. */
struct cow_reserve {
	struct cow_image *image;
	struct cow_alloc *alloc; /* the image's */
	struct cow_reserved extents[COW_RESERVE_EXTENTS];
	unsigned nr, pos;	/* extents[pos..nr) are left */
	uint32_t goal_clusters; /* next refill's size; doubles */
	bool from_end;		/* look behind all that was ever used, for a long run */
	struct cow_waitlist waiters;

	/* the refill (refill.c) */
	struct cow_task task;
	atomic_bool refilling; /* written by the owner only */
	bool has_baton;
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
		uint64_t done; /* clusters written */
	} grow;
};

/* A refcount block being read. */
struct cow_look {
	struct cow_io io;
	struct cow_alloc *alloc;
	struct cow_task *task;
	uint64_t block;
	uint8_t *buf; /* one cluster */
};

#define COW_LOOKS 8u

struct cow_alloc {
	/* lock */
	struct cow_mutex lock;
	bool busy;
	struct cow_waitlist waiters;
	struct cow_freemap map;
	/* baton */
	/*
	 * Taken (their refcounts are raised), but by a refill that failed, or more than fits into
	 * its reservation: the next refill begins with them. They never go to the quarantine, so
	 * that a refill needs no room there and waits for nobody.
	 */
	struct cow_reserved spare[COW_RESERVE_EXTENTS];
	unsigned nr_spare;
	_Atomic uint64_t file_bytes; /* length of the host file; the baton's, but all may read it */
	/*
	 * Clusters from here on were not looked at, and are free as a rule: where the file ended at
	 * open, or the last refill of new ones. On a block device: behind the last refcount block.
	 */
	uint64_t tail;
	uint64_t virgin_cluster; /* host clusters from here on were never used: holes */
	bool cannot_punch;
	/* constant */
	const struct cow_geometry *g; /* the image's, as these */
	struct cow_file *file;
	const struct cow_table *reftable;
	uint64_t opened_bytes;	   /* file_bytes when the image was opened */
	uint32_t reserve_clusters; /* a queue's largest reservation */
	/* baton: blocks looked at (look.c); the first buffer serves reftable_grow.c as well */
	struct cow_look looks[COW_LOOKS];
	unsigned nr_looks;
	uint8_t *look_memory;
};

int cow_alloc_init(struct cow_image *image);
void cow_alloc_fini(struct cow_image *image);
/*
 * Control plane, before the first request: rounds the file's length up (closing cuts it again),
 * syncs it, empties the page cache of it.
 */
int cow_alloc_prepare_file(struct cow_image *image, struct cow_loop *loop);
/* The file was changed behind our back, under a freeze: its length is bytes now. */
void cow_alloc_restart(struct cow_image *image, uint64_t bytes);
void cow_reserve_init(struct cow_reserve *reserve, struct cow_image *image);

/*
 * Take up to want consecutive clusters. Returns their number; *out is the first one, *zero whether
 * they read as zeros. 0: none at hand, the task is parked until there are (or fails with -ENOSPC);
 * the refill is on its way. No locks held in that case.
 */
uint32_t cow_alloc_take(struct cow_reserve *reserve, uint32_t want, struct cow_hoff *out,
			bool *zero, struct cow_task *task);
/* These host clusters may be free again. */
void cow_alloc_freed(struct cow_alloc *alloc, const struct cow_freed *freed, unsigned nr);

/* Start the refill unless it runs. */
void cow_reserve_refill(struct cow_reserve *reserve, struct cow_loop *loop);

/* Nothing is left: park until there is. Return COW_WAIT. */
void cow_alloc_wait(struct cow_reserve *reserve, struct cow_task *task);
/* What would be taken next, without taking: false if nothing is at hand. */
bool cow_alloc_peek(const struct cow_reserve *reserve, bool *zero);
/* Hand back clusters whose use failed; their content is unknown now. */
void cow_alloc_return(struct cow_reserve *reserve, struct cow_hoff off, uint32_t nr);

#endif
