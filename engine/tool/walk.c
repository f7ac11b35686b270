/* SPDX-License-Identifier: MIT */
/* See walk.h. In this order: pieces; threads. */
#include "engine/tool/walk.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/base/math.h"
#include "engine/loop/loop_plain.h"
#include "engine/loop/loop_uring.h"

#define LOOP_DEPTH 32u
#define SHOW_EVERY_NS 100000000

unsigned cow_walk_threads(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	return (unsigned)cow_min(cow_max(cpus > 0 ? (uint64_t)cpus * 2 : 1, 4),
				 COW_WALK_MAX_THREADS);
}

/* ---- pieces ---- */

static bool is_over_locked(const struct cow_walk *walk) COW_REQUIRES(walk, walk->lock);
static bool is_over_locked(const struct cow_walk *walk)
{
	return walk->result || walk->cursor >= walk->stop;
}

static bool next_piece(struct cow_walk *walk, uint64_t *off, uint64_t *bytes)
{
	cow_mutex_lock(&walk->lock);
	if (!walk->result && walk->cancel && atomic_load(walk->cancel))
		walk->result = -ECANCELED;
	bool more = !is_over_locked(walk);
	*off = walk->cursor;
	*bytes = more ? cow_min(walk->unit, walk->stop - walk->cursor) : 0;
	walk->cursor += *bytes;
	cow_mutex_unlock(&walk->lock);
	return more;
}

static void finish_piece(struct cow_walk *walk, uint64_t bytes, int ret)
{
	cow_mutex_lock(&walk->lock);
	walk->done += bytes;
	cow_assert(walk->done <= walk->cursor - walk->begin);
	if (!walk->result)
		walk->result = ret;
	cow_mutex_unlock(&walk->lock);
}

bool cow_walk_take(struct cow_walker *walker, uint64_t upto, uint64_t *off, uint64_t *bytes)
{
	struct cow_walk *walk = walker->walk;
	cow_mutex_lock(&walk->lock);
	uint64_t limit = cow_min(upto, walk->stop);
	if (limit != walk->stop)
		limit -= (limit - walk->begin) % walk->unit;
	bool more = !is_over_locked(walk) && limit > walk->cursor;
	*off = walk->cursor;
	*bytes = more ? limit - walk->cursor : 0;
	walk->cursor += *bytes;
	walk->done += *bytes;
	cow_mutex_unlock(&walk->lock);
	return more;
}

void cow_walk_cut(struct cow_walker *walker, uint64_t off)
{
	struct cow_walk *walk = walker->walk;
	cow_mutex_lock(&walk->lock);
	walk->stop = cow_min(walk->stop, off);
	cow_mutex_unlock(&walk->lock);
}

/* Lets go of the lock meanwhile. */
static void show_locked(struct cow_walk *walk) COW_REQUIRES(walk, walk->lock);
static void show_locked(struct cow_walk *walk)
{
	uint64_t done = walk->done;
	if (!walk->progress.show)
		return;
	cow_mutex_unlock(&walk->lock);
	walk->progress.show(walk->progress.ctx, done, walk->end - walk->begin);
	cow_mutex_lock(&walk->lock);
}

/* ---- threads ---- */

static int new_loop(struct cow_loop **out)
{
	int ret = cow_loop_uring_new(LOOP_DEPTH, out);
	return ret ? cow_loop_plain_new(out) : 0; /* where io_uring is forbidden */
}

static void work(struct cow_walker *walker)
{
	struct cow_walk *walk = walker->walk;
	uint64_t off, bytes;
	int ret = walk->enter(walker);
	if (ret)
		finish_piece(walk, 0, ret);
	while (next_piece(walk, &off, &bytes))
		finish_piece(walk, bytes, walk->visit(walker, off, bytes));
	if (walk->leave)
		walk->leave(walker);
}

/* Shown at the end: there is nobody who waits meanwhile. */
static void run_here(struct cow_walk *walk)
{
	struct cow_walker here = { .walk = walk, .loop = walk->loop };
	cow_assert(walk->loop);
	work(&here);
	cow_mutex_lock(&walk->lock);
	show_locked(walk);
	cow_mutex_unlock(&walk->lock);
}

static void *run_walker(void *arg)
{
	struct cow_walker *walker = arg;
	struct cow_walk *walk = walker->walk;
	int ret = new_loop(&walker->loop);
	if (ret)
		walker->loop = NULL;
	if (!ret) {
		cow_loop_enter(walker->loop);
		work(walker);
		cow_loop_enter(NULL);
	} else {
		finish_piece(walk, 0, ret);
	}
	cow_mutex_lock(&walk->lock);
	cow_assert(walk->nr_running);
	walk->nr_running--;
	pthread_cond_signal(&walk->ended);
	cow_mutex_unlock(&walk->lock);
	return NULL;
}

/* Signals are for the thread that waits. */
static int start_threads(struct cow_walk *walk)
{
	sigset_t all, before;
	int ret = 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (unsigned i = 0; i < walk->nr_threads && !ret; i++) {
		struct cow_walker *w = &walk->walkers[i];
		w->walk = walk;
		cow_mutex_lock(&walk->lock);
		ret = -pthread_create(&w->thread, NULL, run_walker, w);
		w->running = !ret;
		walk->nr_running += !ret;
		cow_mutex_unlock(&walk->lock);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return walk->walkers[0].running ? 0 : ret; /* some will do */
}

static void wait_for_threads(struct cow_walk *walk)
{
	cow_mutex_lock(&walk->lock);
	while (walk->nr_running) {
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += SHOW_EVERY_NS;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		cow_mutex_wait_until(&walk->lock, &walk->ended, &until);
		show_locked(walk);
	}
	cow_mutex_unlock(&walk->lock);
	for (unsigned i = 0; i < walk->nr_threads; i++)
		if (walk->walkers[i].running)
			pthread_join(walk->walkers[i].thread, NULL);
	/* Who has woken a thread may still be about to ring its bell when that thread is through. */
	for (unsigned i = 0; i < walk->nr_threads; i++)
		if (walk->walkers[i].loop)
			cow_loop_free(walk->walkers[i].loop);
}

int cow_walk_run(struct cow_walk *walk)
{
	cow_mutex_init(&walk->lock, COW_RANK_WALK);
	pthread_cond_init(&walk->ended, NULL);
	walk->cursor = walk->begin;
	walk->stop = walk->end;
	walk->done = 0;
	walk->result = 0;
	walk->nr_running = 0;
	memset(walk->walkers, 0, sizeof(walk->walkers));
	int ret = 0;
	cow_assert(walk->nr_threads <= COW_WALK_MAX_THREADS);
	if (walk->nr_threads) {
		ret = start_threads(walk);
		wait_for_threads(walk);
	} else {
		run_here(walk);
	}
	cow_assert(walk->done == walk->cursor - walk->begin); /* who took a piece has ended it */
	pthread_cond_destroy(&walk->ended);
	cow_mutex_fini(&walk->lock);
	return ret ? ret : walk->result;
}
