/* SPDX-License-Identifier: MIT */
/*
 * A range of a disk gone through by several threads. Each takes the next piece, in order, and works
 * on it with blocking calls on a loop of its own: as many pieces are in flight as there are threads,
 * on all CPUs. Or by none but the caller's, piece by piece: then it does the same each time.
 */
#ifndef COW_WALK_H
#define COW_WALK_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/base/mutex.h"
#include "engine/base/result.h"
#include "engine/loop/loop.h"

#define COW_WALK_MAX_THREADS 16u

struct cow_walk;

/* A thread of it. */
struct cow_walker {
	struct cow_walk *walk;
	struct cow_loop *loop;
	void *state; /* enter()'s */
	pthread_t thread;
	bool running;
};

/* What is shown to who waits: bytes gone through and bytes in all; called on the caller's thread. */
struct cow_progress {
	void (*show)(void *ctx, uint64_t done, uint64_t all);
	void *ctx;
};

struct cow_walk {
	/* the caller's */
	uint64_t begin, end;	   /* bytes */
	uint64_t unit;		   /* of a piece; the last may be shorter */
	unsigned nr_threads;	   /* up to COW_WALK_MAX_THREADS; 0: the caller's, on loop */
	struct cow_loop *loop;	   /* only with nr_threads 0 */
	const atomic_bool *cancel; /* may be NULL; when it becomes true: -ECANCELED */
	struct cow_progress progress;
	void *ctx;
	/* On the walker's thread; 0 or -errno, which ends the walk. leave() may be NULL, and follows any enter(). */
	int (*enter)(struct cow_walker *walker);
	int (*visit)(struct cow_walker *walker, uint64_t off, uint64_t bytes);
	void (*leave)(struct cow_walker *walker);

	/* own */
	struct cow_walker walkers[COW_WALK_MAX_THREADS];
	struct cow_mutex_walk lock;
	pthread_cond_t ended;
	uint64_t cursor COW_GUARDED_BY(walk);
	uint64_t stop COW_GUARDED_BY(walk);
	uint64_t done COW_GUARDED_BY(walk);
	unsigned nr_running COW_GUARDED_BY(walk);
	int result COW_GUARDED_BY(walk);
};

/*
 * Whole pieces from where nobody has been on, up to upto at most: the caller's, who knows already what
 * is there. False: there are none.
 */
bool cow_walk_take(struct cow_walker *walker, uint64_t upto, uint64_t *off, uint64_t *bytes);
/* Nothing from off on needs to be visited any more. */
void cow_walk_cut(struct cow_walker *walker, uint64_t off);

/* Blocking. 0 or what ended it first. */
COW_MUST_CHECK int cow_walk_run(struct cow_walk *walk);

/* As many threads as serve this machine's CPUs well. */
unsigned cow_walk_threads(void);

#endif
