/* SPDX-License-Identifier: MIT */
/*
 * Threads that meet at the same data, in every order in which they can. Sources that a test names in
 * its head ("interleaved: ...") are built once more for it with this file in front of all others, and
 * so is the test itself. Their atomic operations and locks are points: just before an operation, just
 * before a lock is taken, just after it is dropped. Of the threads of a test one runs at a time, until
 * at some point another one goes on in its place; each order with a few such switches is tried. So a
 * race of a few instructions is no matter of luck.
 *
 * Seen is what a wrong order does. What only another order of memory does is the thread sanitizer's.
 */
#ifndef COW_TEST_INTERLEAVE_H
#define COW_TEST_INTERLEAVE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#define INTERLEAVE_THREADS 3u

struct interleave {
	/* before each order, and after it: on the caller's thread */
	void (*begin)(void *ctx);
	void (*over)(void *ctx);
	/* NULL: there are fewer; these make no assertions of cmocka's */
	void (*threads[INTERLEAVE_THREADS])(void *ctx);
	void *ctx;
	/* from a thread that could have gone on to another one; 3 show all races known so far */
	unsigned switches;
};

/* Returns how many orders there are. Threads that stand still for each other end the program. */
unsigned interleave(const struct interleave *i);

/*
 * From begin(): points are only at these, any lock that is not free aside; several times for several
 * ranges. Else all operations are points.
 */
void interleave_watch(const volatile void *p, size_t bytes);
/* A point of the test's own, on watched data. */
void interleave_point(const volatile void *p);

int interleave_lock(pthread_mutex_t *mutex);
int interleave_unlock(pthread_mutex_t *mutex);

#define pthread_mutex_lock(m) interleave_lock(m)
#define pthread_mutex_unlock(m) interleave_unlock(m)

#undef atomic_load
#undef atomic_store
#undef atomic_exchange
#undef atomic_fetch_add
#undef atomic_fetch_sub
#undef atomic_compare_exchange_strong
#define INTERLEAVE(op, p, ...) (interleave_point(p), op##_explicit(p, __VA_ARGS__))
#define atomic_load(p) INTERLEAVE(atomic_load, p, memory_order_seq_cst)
#define atomic_store(p, v) INTERLEAVE(atomic_store, p, v, memory_order_seq_cst)
#define atomic_exchange(p, v) INTERLEAVE(atomic_exchange, p, v, memory_order_seq_cst)
#define atomic_fetch_add(p, v) INTERLEAVE(atomic_fetch_add, p, v, memory_order_seq_cst)
#define atomic_fetch_sub(p, v) INTERLEAVE(atomic_fetch_sub, p, v, memory_order_seq_cst)
#define atomic_compare_exchange_strong(p, e, v)                                                    \
	INTERLEAVE(atomic_compare_exchange_strong, p, e, v, memory_order_seq_cst,                  \
		   memory_order_seq_cst)

#endif
