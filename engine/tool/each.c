/* SPDX-License-Identifier: MIT */
#include "engine/tool/each.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "engine/base/assert.h"

struct each {
	void (*one)(void *arg, unsigned i, unsigned worker);
	void *arg;
	unsigned nr;
	atomic_uint next;
};

struct worker {
	struct each *each;
	unsigned idx;
	pthread_t thread;
};

static void *work(void *arg)
{
	const struct worker *worker = arg;
	struct each *each = worker->each;
	unsigned i;
	while ((i = atomic_fetch_add(&each->next, 1)) < each->nr)
		each->one(each->arg, i, worker->idx);
	return NULL;
}

/* Signals are for the caller's thread. Returns how many there are: some will do. */
static unsigned start(struct worker *workers, unsigned nr)
{
	sigset_t all, before;
	unsigned i = 1;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (i < nr && !pthread_create(&workers[i].thread, NULL, work, &workers[i]))
		i++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return i;
}

void cow_each(unsigned nr, unsigned nr_workers, void (*one)(void *arg, unsigned i, unsigned worker),
	      void *arg)
{
	struct each each = { .one = one, .arg = arg, .nr = nr };
	struct worker workers[COW_EACH_MAX_WORKERS] = { 0 };
	cow_assert(nr_workers && nr_workers <= COW_EACH_MAX_WORKERS);
	for (unsigned i = 0; i < nr_workers; i++)
		workers[i] = (struct worker){ .each = &each, .idx = i };
	unsigned nr_threads = start(workers, nr < nr_workers ? nr : nr_workers);
	work(&workers[0]);
	for (unsigned i = 1; i < nr_threads; i++)
		pthread_join(workers[i].thread, NULL);
}
