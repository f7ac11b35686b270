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
#include "engine/base/result.h"
#include "engine/core/limits.h"
#include "engine/format/geometry.h"
#include "engine/loop/task.h"
#include "engine/space/freemap.h"

struct cow_core;
struct cow_freed;
struct cow_meta;
struct cow_quarantine;
struct cow_table;

/* Consecutive reserved host clusters. */
struct cow_reserved {
	uint64_t cluster;
	uint32_t nr;
	bool zero; /* reads as zeros on the host */
};

/*
 * The host file's length is a multiple of this while the image is open for writing (see extend.h).
 */
#define COW_FILE_ALIGN_BYTES (64u << 10)
/*
 * Punches keep to whole blocks of host file systems for the same reason: what is less is zeroed
 * through the page cache.
 */
#define COW_PUNCH_ALIGN_BYTES 4096u

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
	struct cow_mutex_alloc lock;
	bool busy COW_GUARDED_BY(alloc);
	struct cow_waitlist waiters COW_GUARDED_BY(alloc);
	struct cow_freemap map COW_GUARDED_BY(alloc);

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
	struct cow_core *core;
	struct cow_meta *meta;
	struct cow_quarantine *quarantine;
	const struct cow_geometry *g; /* core's, as the file */
	struct cow_file *file;
	const struct cow_table *reftable;
	uint64_t opened_bytes;	   /* file_bytes when the image was opened */
	uint32_t reserve_clusters; /* a queue's largest reservation */
	/* baton: blocks looked at (look.c); the first buffer serves reftable_grow.c as well */
	struct cow_look looks[COW_LOOKS];
	unsigned nr_looks;
	uint8_t *look_memory;
};

/*
 * meta of a writable image, and where what it frees goes (made before or after). reserve_bytes: a
 * queue's largest reservation, 0: 16 MiB.
 */
COW_MUST_CHECK int cow_alloc_init(struct cow_alloc *alloc, struct cow_meta *meta,
				  struct cow_quarantine *q, uint64_t reserve_bytes);
void cow_alloc_fini(struct cow_alloc *alloc);
/*
 * Control plane, before the first request: rounds the file's length up (closing cuts it again),
 * syncs it, empties the page cache of it.
 */
COW_MUST_CHECK int cow_alloc_prepare_file(struct cow_alloc *alloc, struct cow_loop *loop);
/* The file was changed behind our back, under a freeze: its length is bytes now. */
void cow_alloc_restart(struct cow_alloc *alloc, uint64_t bytes);
/* These host clusters may be free again. */
void cow_alloc_freed(struct cow_alloc *alloc, const struct cow_freed *freed, unsigned nr);

#endif
