/* SPDX-License-Identifier: MIT */
/* The same done many times, on all CPUs: what has no disk to walk through. */
#ifndef COW_EACH_H
#define COW_EACH_H

#define COW_EACH_MAX_WORKERS 16u

/*
 * Calls one() for each i below nr, on the caller's thread and up to nr_workers - 1 others; worker is
 * below nr_workers (1 to COW_EACH_MAX_WORKERS) and the same on no two threads. Returns after all of
 * them.
 */
void cow_each(unsigned nr, unsigned nr_workers, void (*one)(void *arg, unsigned i, unsigned worker),
	      void *arg);

#endif
