/* SPDX-License-Identifier: MIT */
/*
 * Claims: who overlaps waits, who waits is woken, and never do two hold the same cluster. Also
 * epochs, which they go with.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/loop/loop_plain.h"
#include "engine/space/epoch.h"
#include "engine/image/claim.h"

#define SLICE_ENTRIES 64u

static struct cow_claims claims;

struct waiter {
	struct cow_task task;
	unsigned ran;
};

static enum cow_next waiter_run(struct cow_task *task)
{
	((struct waiter *)task)->ran++;
	return COW_END;
}

static const struct cow_step waiter_step = { "waiter", waiter_run };

static void waiter_end(struct cow_task *task)
{
}

static void waiter_init(struct waiter *w, struct cow_loop *loop)
{
	memset(w, 0, sizeof(*w));
	cow_task_init(&w->task, &waiter_step, waiter_end);
	w->task.loop = loop;
	w->task.step = &waiter_step;
}

static void test_overlap_parks(void **state)
{
	struct cow_loop *loop;
	assert_int_equal(cow_loop_plain_new(&loop), 0);
	cow_claims_init(&claims, SLICE_ENTRIES);
	struct cow_claim a = { 0 }, b = { 0 }, c = { 0 };
	struct waiter wa, wb, wc;
	waiter_init(&wa, loop);
	waiter_init(&wb, loop);
	waiter_init(&wc, loop);
	assert_true(cow_claims_take(&claims, &a, COW_CLAIM_CLUSTERS, 10, 20, &wa.task));
	assert_true(cow_claims_take(&claims, &c, COW_CLAIM_CLUSTERS, 20, 21, &wc.task));
	assert_false(cow_claims_take(&claims, &b, COW_CLAIM_CLUSTERS, 19, 20, &wb.task));
	assert_true(cow_claims_overlaps(&claims, COW_CLAIM_CLUSTERS, 0, 11));
	assert_false(cow_claims_overlaps(&claims, COW_CLAIM_CLUSTERS, 0, 10));
	assert_false(cow_claims_overlaps(&claims, COW_CLAIM_CLUSTERS, 21, 30));
	COW_IGNORE(cow_loop_poll(loop));
	assert_int_equal(wb.ran, 0);
	cow_claims_drop(&claims, &a);
	cow_claims_drop(&claims, &a); /* again: nothing */
	COW_IGNORE(cow_loop_poll(loop));
	assert_int_equal(wb.ran, 1);
	assert_false(b.held); /* woken to look again, no more */
	assert_true(cow_claims_busy(&claims, COW_CLAIM_CLUSTERS, 20, 30, &wa.task));
	assert_false(cow_claims_busy(&claims, COW_CLAIM_CLUSTERS, 10, 20, &wb.task));
	cow_claims_drop(&claims, &c);
	COW_IGNORE(cow_loop_poll(loop));
	assert_int_equal(wa.ran, 1);
	assert_int_equal(wb.ran, 1);
	cow_claims_fini(&claims);
	cow_loop_free(loop);
}

static void test_spaces_are_apart(void **state)
{
	cow_claims_init(&claims, SLICE_ENTRIES);
	struct waiter w;
	waiter_init(&w, NULL);
	struct cow_claim l1 = { 0 }, clusters = { 0 };
	assert_true(cow_claims_take(&claims, &l1, COW_CLAIM_L1, 3, 4, &w.task));
	assert_true(cow_claims_take(&claims, &clusters, COW_CLAIM_CLUSTERS, 3, 4, &w.task));
	assert_true(cow_claims_overlaps(&claims, COW_CLAIM_L1, 3, 4));
	assert_false(cow_claims_overlaps(&claims, COW_CLAIM_L1, 3 + COW_CLAIMS_SHARDS,
					 4 + COW_CLAIMS_SHARDS));
	cow_claims_drop(&claims, &l1);
	assert_false(cow_claims_overlaps(&claims, COW_CLAIM_L1, 3, 4));
	assert_true(cow_claims_overlaps(&claims, COW_CLAIM_CLUSTERS, 0, 64));
	cow_claims_drop(&claims, &clusters);
	cow_claims_fini(&claims);
}

/* ---- many threads ---- */

#define THREADS 4
#define ROUNDS 4000
#define CLUSTERS (4 * SLICE_ENTRIES)

struct runner {
	struct cow_task task;
	struct cow_loop *loop;
	struct cow_claim claim;
	unsigned seed, left;
	uint64_t start, end;
	bool done;
};

/*
 * Written without atomics on purpose: the claims alone keep the threads apart, and the thread
 * sanitizer checks it.
 */
static unsigned owner[CLUSTERS], touched[CLUSTERS];
static atomic_uint collisions;

static void choose(struct runner *r)
{
	r->start = (unsigned)rand_r(&r->seed) % CLUSTERS;
	uint64_t slice_end = (r->start / SLICE_ENTRIES + 1) * SLICE_ENTRIES;
	r->end = r->start + 1 + (unsigned)rand_r(&r->seed) % (slice_end - r->start);
}

static enum cow_next runner_work(struct cow_task *task)
{
	struct runner *r = (struct runner *)task;
	if (!r->left)
		return COW_END;
	if (!r->start && !r->end)
		choose(r);
	if (!cow_claims_take(&claims, &r->claim, COW_CLAIM_CLUSTERS, r->start, r->end, task))
		return COW_WAIT;
	unsigned me = r->seed | 1;
	for (uint64_t i = r->start; i < r->end; i++) {
		collisions += owner[i] != 0;
		owner[i] = me;
	}
	for (uint64_t i = r->start; i < r->end; i++) {
		collisions += owner[i] != me;
		touched[i]++;
		owner[i] = 0;
	}
	cow_claims_drop(&claims, &r->claim);
	r->start = 0;
	r->end = 0;
	r->left--;
	return COW_AGAIN;
}

static const struct cow_step runner_step = { "work", runner_work };

static void runner_end(struct cow_task *task)
{
	((struct runner *)task)->done = true;
}

static void *runner_main(void *arg)
{
	struct runner *r = arg;
	cow_loop_enter(r->loop);
	cow_task_init(&r->task, &runner_step, runner_end);
	cow_task_start(&r->task, r->loop, &runner_step);
	while (!r->done)
		COW_IGNORE(cow_loop_run(r->loop));
	return NULL;
}

static void test_threads(void **state)
{
	static struct runner runners[THREADS];
	pthread_t threads[THREADS];
	cow_claims_init(&claims, SLICE_ENTRIES);
	for (unsigned i = 0; i < THREADS; i++) {
		runners[i].seed = i + 1;
		runners[i].left = ROUNDS;
		assert_int_equal(cow_loop_plain_new(&runners[i].loop), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, runner_main, &runners[i]);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < THREADS; i++)
		cow_loop_free(runners[i].loop);
	assert_int_equal(collisions, 0);
	for (unsigned i = 0; i < COW_CLAIMS_SHARDS; i++)
		assert_null(claims.shards[i].claims);
	cow_claims_fini(&claims);
}

/* ---- epochs ---- */

static void test_epoch(void **state)
{
	static struct cow_epoch epoch;
	cow_epoch_init(&epoch);
	uint64_t old = cow_epoch_enter(&epoch, 0);
	uint64_t freed = cow_epoch_now(&epoch);
	assert_false(cow_epoch_passed(&epoch, freed)); /* the op that began before is still there */
	uint64_t young = cow_epoch_enter(&epoch, 1);
	assert_true(young > old);
	assert_false(cow_epoch_passed(&epoch, freed));
	cow_epoch_leave(&epoch, 0, old);
	assert_true(cow_epoch_passed(&epoch, freed)); /* the younger one does not matter */
	uint64_t later = cow_epoch_now(&epoch);
	assert_false(cow_epoch_passed(&epoch, later));
	cow_epoch_leave(&epoch, 1, young);
	assert_true(cow_epoch_passed(&epoch, later));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_overlap_parks),
		cmocka_unit_test(test_spaces_are_apart),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_epoch),
	};
	return cmocka_run_group_tests_name("claims", tests, NULL, NULL);
}
