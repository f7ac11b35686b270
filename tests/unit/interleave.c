/* SPDX-License-Identifier: MIT */
/* See interleave.h. In this order: who goes on; points; one order; all of them. */
#include "tests/unit/interleave.h"

#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "engine/base/assert.h"

#define MAX_CHOICES 4096u
#define MAX_WATCHED 8u

struct thread {
	pthread_t thread;
	sem_t go;
	void (*run)(void *ctx);
	void *ctx;
	bool over;
	const pthread_mutex_t *waits_for;
};

/* Where several threads could go on, which one did: the order under way is the first `depth` of them. */
struct choice {
	unsigned char taken, of;
};

struct range {
	uintptr_t from, to;
};

/* All is the one thread's that runs just now, the caller's in between. */
static struct thread threads[INTERLEAVE_THREADS];
static unsigned nr_threads, switches, max_switches;
static sem_t none_goes_on;
static struct choice choices[MAX_CHOICES];
static unsigned nr_choices, depth;
static struct range watched[MAX_WATCHED];
static unsigned nr_watched;
static _Thread_local struct thread *me; /* NULL: not one of them */

/* ---- who goes on ---- */

static unsigned choose(unsigned of)
{
	if (of == 1)
		return 0;
	if (depth == nr_choices) {
		cow_assert(nr_choices < MAX_CHOICES);
		choices[nr_choices++] = (struct choice){ .taken = 0, .of = (unsigned char)of };
	}
	cow_assert(choices[depth].of == of); /* the same choices lead to the same place */
	return choices[depth++].taken;
}

static bool can_run(const struct thread *t)
{
	return !t->over && !t->waits_for;
}

/* If `self` can, it is the first choice. NULL: none can. */
static struct thread *next(struct thread *self)
{
	struct thread *ready[INTERLEAVE_THREADS];
	unsigned nr = 0;
	bool goes_on = self && can_run(self);
	if (goes_on)
		ready[nr++] = self;
	for (unsigned i = 0; i < nr_threads && (!goes_on || switches < max_switches); i++)
		if (&threads[i] != self && can_run(&threads[i]))
			ready[nr++] = &threads[i];
	if (!nr)
		return NULL;
	struct thread *t = ready[choose(nr)];
	switches += goes_on && t != self;
	return t;
}

static void go_on(struct thread *t)
{
	sem_post(t ? &t->go : &none_goes_on);
}

static void reschedule(void)
{
	struct thread *self = me, *t = next(self);
	if (t == self)
		return;
	go_on(t);
	if (!self->over)
		sem_wait(&self->go);
}

/* ---- points ---- */

void interleave_watch(const volatile void *p, size_t bytes)
{
	cow_assert(nr_watched < MAX_WATCHED);
	watched[nr_watched++] = (struct range){ (uintptr_t)p, (uintptr_t)p + bytes };
}

static bool is_watched(uintptr_t p)
{
	for (unsigned i = 0; i < nr_watched; i++)
		if (p >= watched[i].from && p < watched[i].to)
			return true;
	return !nr_watched;
}

void interleave_point(const volatile void *p)
{
	if (me && is_watched((uintptr_t)p))
		reschedule();
}

/* In brackets: the real ones. */
int interleave_lock(pthread_mutex_t *mutex)
{
	interleave_point(mutex);
	while (me && pthread_mutex_trylock(mutex)) {
		me->waits_for = mutex;
		reschedule();
	}
	return me ? 0 : (pthread_mutex_lock)(mutex);
}

int interleave_unlock(pthread_mutex_t *mutex)
{
	int ret = (pthread_mutex_unlock)(mutex);
	for (unsigned i = 0; i < nr_threads; i++)
		if (threads[i].waits_for == mutex)
			threads[i].waits_for = NULL;
	interleave_point(mutex);
	return ret;
}

/* ---- one order ---- */

static void *thread_main(void *arg)
{
	me = arg;
	sem_wait(&me->go);
	me->run(me->ctx);
	me->over = true;
	reschedule();
	return NULL;
}

static void run_threads(const struct interleave *i)
{
	depth = switches = 0;
	for (unsigned t = 0; t < nr_threads; t++) {
		threads[t].run = i->threads[t];
		threads[t].ctx = i->ctx;
		threads[t].over = false;
		cow_assert(!pthread_create(&threads[t].thread, NULL, thread_main, &threads[t]));
	}
	go_on(next(NULL));
	sem_wait(&none_goes_on);
	for (unsigned t = 0; t < nr_threads; t++) {
		cow_assert(threads[t].over); /* else they stand still for each other */
		pthread_join(threads[t].thread, NULL);
	}
}

/* ---- all of them ---- */

/* The last choice that could have been another one is. False: that were all. */
static bool next_order(void)
{
	cow_assert(depth == nr_choices);
	while (nr_choices && choices[nr_choices - 1].taken + 1 == choices[nr_choices - 1].of)
		nr_choices--;
	if (!nr_choices)
		return false;
	choices[nr_choices - 1].taken++;
	return true;
}

unsigned interleave(const struct interleave *i)
{
	unsigned nr = 0;
	max_switches = i->switches;
	nr_choices = 0;
	nr_threads = 0;
	memset(threads, 0, sizeof(threads));
	sem_init(&none_goes_on, 0, 0);
	while (nr_threads < INTERLEAVE_THREADS && i->threads[nr_threads])
		sem_init(&threads[nr_threads++].go, 0, 0);
	do {
		nr_watched = 0;
		i->begin(i->ctx);
		run_threads(i);
		i->over(i->ctx);
		nr++;
	} while (next_order());
	return nr;
}
