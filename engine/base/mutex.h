/* SPDX-License-Identifier: MIT */
/*
 * Mutexes with a rank. A thread may only take a lock of a higher rank than all that it holds;
 * asserted always. The one list of the engine's lock order:
 */
#ifndef COW_BASE_MUTEX_H
#define COW_BASE_MUTEX_H

#include <pthread.h>

#include "engine/base/assert.h"

enum cow_lock_rank {
	COW_RANK_QUEUES = 0,	  /* list of queues; control plane */
	COW_RANK_L2_SHARD = 1,	  /* one shard of the L2 slice cache */
	COW_RANK_REF_SHARD = 2,	  /* one shard of the refcount cache */
	COW_RANK_CLAIMS = 3,	  /* claims on guest ranges */
	COW_RANK_ALLOC = 4,	  /* allocator: baton, where free clusters may be */
	COW_RANK_QUARANTINE = 5,  /* freed clusters on their way back, blocked extents */
	COW_RANK_L1 = 6,	  /* dirty blocks of the L1 table and the refcount table, header */
	COW_RANK_CACHE_LIMIT = 7, /* tasks waiting for room in a cache */
	COW_RANK_COMMIT = 8,	  /* who waits for which writeback pass */
	COW_RANK_HEADER = 9,	  /* header fields */
	COW_RANK_FREEZE = 10,	  /* requests parked by a freeze */
	COW_RANK_FAIL = 11,	  /* the sticky failure's text */
	COW_RANK_INFLATED = 12,	  /* inflated clusters */
	COW_RANK_HOST_ERROR = 13, /* the last error of a host file */
	COW_RANK_WALK = 14,	  /* what the threads of a walk over a disk have found */
};

/*
 * For the Clang build, which refuses a call without the lock, and a path that leaves with it. Data
 * cannot say which lock is theirs: in C, Clang before 20 finds no member that stands beside them. So
 * each struct says it in words, and what touches such data from several places is a function
 * NAME_locked() with COW_REQUIRES().
 */
#if defined(__clang__)
#define COW_CAPABILITY __attribute__((capability("mutex")))
#define COW_ACQUIRE(x) __attribute__((acquire_capability(x)))
#define COW_RELEASE(x) __attribute__((release_capability(x)))
#define COW_REQUIRES(x) __attribute__((requires_capability(x)))
#define COW_NO_ANALYSIS __attribute__((no_thread_safety_analysis))
#else
#define COW_CAPABILITY
#define COW_ACQUIRE(x)
#define COW_RELEASE(x)
#define COW_REQUIRES(x)
#define COW_NO_ANALYSIS
#endif

struct COW_CAPABILITY cow_mutex {
	pthread_mutex_t m;
	enum cow_lock_rank rank;
};

extern _Thread_local unsigned cow_mutex_held; /* bit per rank */

static inline void cow_mutex_init(struct cow_mutex *mutex, enum cow_lock_rank rank)
{
	pthread_mutex_init(&mutex->m, NULL);
	mutex->rank = rank;
}

static inline void cow_mutex_fini(struct cow_mutex *mutex)
{
	pthread_mutex_destroy(&mutex->m);
}

static inline void cow_mutex_lock(struct cow_mutex *mutex) COW_ACQUIRE(*mutex) COW_NO_ANALYSIS
{
	cow_assert((cow_mutex_held >> mutex->rank) == 0);
	pthread_mutex_lock(&mutex->m);
	cow_mutex_held |= 1u << mutex->rank;
}

static inline void cow_mutex_unlock(struct cow_mutex *mutex) COW_RELEASE(*mutex) COW_NO_ANALYSIS
{
	cow_mutex_held &= ~(1u << mutex->rank);
	pthread_mutex_unlock(&mutex->m);
}

static inline void cow_mutex_assert_none_held(void)
{
	cow_assert(cow_mutex_held == 0);
}

#endif
