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
	COW_RANK_WALK = 14,	  /* a walk over a disk: the next piece, what its threads found */
	COW_RANK_DAEMON = 15,	  /* the daemon's own: nothing else is taken under them */
};

/*
 * For the Clang build, which refuses data touched without their lock, a call without it, and a path
 * that leaves with it. Data say COW_GUARDED_BY(kind): a lock of that kind is held, as lockdep has it
 * for classes, since in C Clang before 20 finds no member that stands beside another. A thread holds
 * one lock of a rank at a time; and which one of its kind a function wants, COW_REQUIRES() says.
 * Clang follows no pointer to such data: what gets one is called with the lock.
 */
#if defined(__clang__)
#define COW_ANALYSIS(x) __attribute__((x))
#else
#define COW_ANALYSIS(x)
#endif
#define COW_CAPABILITY COW_ANALYSIS(capability("mutex"))
#define COW_GUARDED_BY(kind) COW_ANALYSIS(guarded_by(cow_guard_##kind))
/* What a pointer points to. */
#define COW_PT_GUARDED_BY(kind) COW_ANALYSIS(pt_guarded_by(cow_guard_##kind))
#define COW_REQUIRES(kind, mutex) COW_ANALYSIS(requires_capability(mutex, cow_guard_##kind))
#define COW_ACQUIRE(kind, mutex) COW_ANALYSIS(acquire_capability(mutex, cow_guard_##kind))
#define COW_RELEASE(kind, mutex) COW_ANALYSIS(release_capability(mutex, cow_guard_##kind))
#define COW_ASSERT_HELD(kind, mutex)                                                               \
	COW_ANALYSIS(assert_capability(mutex))                                                     \
	COW_ANALYSIS(assert_capability(cow_guard_##kind))
#define COW_NO_ANALYSIS COW_ANALYSIS(no_thread_safety_analysis)

/* Never there: names for Clang. */
struct COW_CAPABILITY cow_guard;

struct cow_mutex {
	pthread_mutex_t m;
	enum cow_lock_rank rank;
};

#define COW_MUTEX_INITIALIZER(rank)                                                                \
	{                                                                                          \
		{                                                                                  \
			PTHREAD_MUTEX_INITIALIZER, rank                                            \
		}                                                                                  \
	}

extern _Thread_local unsigned cow_mutex_held; /* bit per rank */

static inline void cow_mutex_enter(struct cow_mutex *mutex)
{
	cow_assert((cow_mutex_held >> mutex->rank) == 0);
	pthread_mutex_lock(&mutex->m);
	cow_mutex_held |= 1u << mutex->rank;
}

static inline void cow_mutex_leave(struct cow_mutex *mutex)
{
	cow_mutex_held &= ~(1u << mutex->rank);
	pthread_mutex_unlock(&mutex->m);
}

/*
 * Each kind of lock is a type of its own, `struct cow_mutex_queues` and so on: whose data it guards.
 *
 * init: until others know of it, the data are the maker's alone. alone: nobody else uses them, not
 * yet or not any more. assert_held: the caller holds it, or the data that it guards. wait, wait_until
 * (CLOCK_REALTIME): as pthread's.
 */
#define COW_MUTEX_KIND(x, kind)                                                                    \
	extern struct cow_guard cow_guard_##kind;                                                  \
	struct COW_CAPABILITY cow_mutex_##kind {                                                   \
		struct cow_mutex any;                                                              \
	};                                                                                         \
	static inline void cow_mutex_init_##kind(struct cow_mutex_##kind *mutex,                   \
						 enum cow_lock_rank rank)                          \
		COW_ASSERT_HELD(kind, *mutex)                                                      \
	{                                                                                          \
		pthread_mutex_init(&mutex->any.m, NULL);                                           \
		mutex->any.rank = rank;                                                            \
	}                                                                                          \
	static inline void cow_mutex_fini_##kind(struct cow_mutex_##kind *mutex)                   \
		COW_ASSERT_HELD(kind, *mutex)                                                      \
	{                                                                                          \
		pthread_mutex_destroy(&mutex->any.m);                                              \
	}                                                                                          \
	static inline void cow_mutex_alone_##kind(struct cow_mutex_##kind *mutex)                  \
		COW_ASSERT_HELD(kind, *mutex)                                                      \
	{                                                                                          \
		cow_mutex_enter(&mutex->any);                                                      \
		cow_mutex_leave(&mutex->any);                                                      \
	}                                                                                          \
	static inline void cow_mutex_assert_held_##kind(const struct cow_mutex_##kind *mutex)      \
		COW_ASSERT_HELD(kind, *mutex)                                                      \
	{                                                                                          \
		cow_assert(cow_mutex_held & 1u << mutex->any.rank);                                \
	}                                                                                          \
	static inline void cow_mutex_lock_##kind(struct cow_mutex_##kind *mutex)                   \
		COW_ACQUIRE(kind, *mutex) COW_NO_ANALYSIS                                          \
	{                                                                                          \
		cow_mutex_enter(&mutex->any);                                                      \
	}                                                                                          \
	static inline void cow_mutex_unlock_##kind(struct cow_mutex_##kind *mutex)                 \
		COW_RELEASE(kind, *mutex) COW_NO_ANALYSIS                                          \
	{                                                                                          \
		cow_mutex_leave(&mutex->any);                                                      \
	}                                                                                          \
	static inline void cow_mutex_wait_##kind(struct cow_mutex_##kind *mutex,                   \
						 pthread_cond_t *cond) COW_REQUIRES(kind, *mutex)  \
	{                                                                                          \
		pthread_cond_wait(cond, &mutex->any.m);                                            \
	}                                                                                          \
	static inline int cow_mutex_wait_until_##kind(                                             \
		struct cow_mutex_##kind *mutex, pthread_cond_t *cond, const struct timespec *time) \
		COW_REQUIRES(kind, *mutex)                                                         \
	{                                                                                          \
		return pthread_cond_timedwait(cond, &mutex->any.m, time);                          \
	}

#define COW_MUTEX_KINDS(X, x)                                                                      \
	X(x, queues)                                                                               \
	X(x, shard)                                                                                \
	X(x, claims)                                                                               \
	X(x, alloc)                                                                                \
	X(x, quarantine)                                                                           \
	X(x, table)                                                                                \
	X(x, cache_limit)                                                                          \
	X(x, commit)                                                                               \
	X(x, header)                                                                               \
	X(x, gate)                                                                                 \
	X(x, failure)                                                                              \
	X(x, inflated)                                                                             \
	X(x, host_error)                                                                           \
	X(x, walk)                                                                                 \
	X(x, findings)                                                                             \
	X(x, jobs)                                                                                 \
	X(x, uqueue)                                                                               \
	X(x, fs_call)                                                                              \
	X(x, beats)

COW_MUTEX_KINDS(COW_MUTEX_KIND, )

/* The function for the lock's type: nothing else is a lock. */
#define COW_MUTEX_CASE(what, kind) , struct cow_mutex_##kind * : cow_mutex_##what##_##kind
#define COW_MUTEX_OF(mutex, what) _Generic((mutex)COW_MUTEX_KINDS(COW_MUTEX_CASE, what))

#define cow_mutex_init(mutex, rank) COW_MUTEX_OF(mutex, init)(mutex, rank)
#define cow_mutex_fini(mutex) COW_MUTEX_OF(mutex, fini)(mutex)
#define cow_mutex_alone(mutex) COW_MUTEX_OF(mutex, alone)(mutex)
#define cow_mutex_assert_held(mutex) COW_MUTEX_OF(mutex, assert_held)(mutex)
#define cow_mutex_lock(mutex) COW_MUTEX_OF(mutex, lock)(mutex)
#define cow_mutex_unlock(mutex) COW_MUTEX_OF(mutex, unlock)(mutex)
#define cow_mutex_wait(mutex, cond) COW_MUTEX_OF(mutex, wait)(mutex, cond)
#define cow_mutex_wait_until(mutex, cond, time) COW_MUTEX_OF(mutex, wait_until)(mutex, cond, time)

static inline void cow_mutex_assert_none_held(void)
{
	cow_assert(cow_mutex_held == 0);
}

#endif
