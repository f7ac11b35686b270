/* SPDX-License-Identifier: MIT */
/*
 * The metadata cache over a real file: loading, dirtying, the limit, eviction, capture, many
 * threads.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/host/system.h"
#include "engine/loop/blocking.h"
#include "engine/loop/loop_plain.h"
#include "engine/meta/cache.h"

#define SLICE 512u
#define FILE_SLICES 256u

struct fixture {
	char path[64];
	struct cow_loop *loop;
	struct cow_file *file;
	struct cow_cache cache;
	unsigned nr_kicks;
};

static void kicked(void *ctx, struct cow_loop *loop)
{
	((struct fixture *)ctx)->nr_kicks++;
}

static void cache_open(struct fixture *f, unsigned slots, void (*kick)(void *, struct cow_loop *))
{
	struct cow_limits limits;
	cow_limits_init(&limits, NULL);
	const struct cow_cache_config config = {
		.file = f->file,
		.slice_bytes = SLICE,
		.bytes = (uint64_t)slots * SLICE,
		.limits = &limits,
		.rank = COW_RANK_L2_SHARD,
		.need_writeback = kick,
		.ctx = f,
	};
	assert_int_equal(cow_cache_init(&f->cache, &config), 0);
}

/* Slice i of the file starts with the number i; a counter follows. */
static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->path, "/tmp/cow-test-cache-XXXXXX");
	close(mkstemp(f->path));
	assert_int_equal(cow_loop_plain_new(&f->loop), 0);
	cow_loop_enter(f->loop);
	struct cow_error err = { 0 };
	struct cow_host *host = cow_host_system();
	assert_int_equal(host->ops->open(host, f->path,
					 COW_OPEN_CREATE | COW_OPEN_TRUNCATE | COW_OPEN_BUFFERED,
					 &f->file, &err),
			 0);
	uint64_t slice[SLICE / 8] = { 0 };
	for (slice[0] = 0; slice[0] < FILE_SLICES; slice[0]++)
		assert_int_equal(cow_loop_write(f->loop, f->file, slice[0] * SLICE, slice, SLICE),
				 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	cow_cache_fini(&f->cache);
	f->file->host->ops->close(f->file);
	cow_loop_enter(NULL);
	cow_loop_free(f->loop);
	unlink(f->path);
	free(f);
	return 0;
}

/* ---- a task that visits one slice ---- */

struct visit {
	struct cow_task task;
	struct cow_cache *cache;
	uint64_t idx;
	uint64_t add;  /* to the counter; 0 leaves the slice clean */
	uint64_t seen; /* the number the slice starts with */
	bool done;
};

static enum cow_next visit_run(struct cow_task *task)
{
	struct visit *v = (struct visit *)task;
	struct cow_slot *slot = cow_cache_get(v->cache, v->idx * SLICE, task);
	if (!slot)
		return COW_WAIT;
	uint64_t *words = (uint64_t *)slot->data;
	v->seen = words[0];
	if (!v->add) {
		cow_cache_put(slot);
		return COW_END;
	}
	if (!cow_cache_may_dirty(slot, task))
		return COW_WAIT;
	words[1] += v->add;
	cow_cache_put_dirty(slot);
	return COW_END;
}

static enum cow_next visit_failed(struct cow_task *task)
{
	return COW_END;
}

static const struct cow_step visit_step = { "visit", visit_run };
static const struct cow_step failed_step = { "failed", visit_failed };

static void visit_end(struct cow_task *task)
{
	((struct visit *)task)->done = true;
}

static void visit_start(struct visit *v, struct fixture *f, uint64_t idx, uint64_t add)
{
	memset(v, 0, sizeof(*v));
	v->cache = &f->cache;
	v->idx = idx;
	v->add = add;
	v->seen = UINT64_MAX;
	cow_task_init(&v->task, &failed_step, visit_end);
	cow_task_start(&v->task, f->loop, &visit_step);
}

static void settle(struct fixture *f)
{
	for (int i = 0; i < 8; i++)
		assert_int_equal(cow_loop_poll(f->loop), 0);
}

static void visit_now(struct fixture *f, uint64_t idx, uint64_t add)
{
	struct visit v;
	visit_start(&v, f, idx, add);
	settle(f);
	assert_true(v.done);
	assert_int_equal(v.task.error, 0);
	assert_int_equal(v.seen, idx);
}

/* One whole pass. Returns what was captured. */
static unsigned write_back(struct fixture *f)
{
	uint8_t *buf = malloc((size_t)f->cache.max_dirty * SLICE);
	struct cow_captured *list = calloc(f->cache.max_dirty, sizeof(*list));
	unsigned nr = cow_cache_capture(&f->cache, buf, list);
	for (unsigned i = 0; i < nr; i++) {
		assert_true(i == 0 || list[i - 1].off < list[i].off);
		assert_int_equal(cow_loop_write(f->loop, f->file, list[i].off, list[i].copy, SLICE),
				 0);
	}
	cow_cache_complete(&f->cache, list, nr, 0);
	free(list);
	free(buf);
	return nr;
}

static uint64_t counter_on_disk(struct fixture *f, uint64_t idx)
{
	uint64_t words[SLICE / 8];
	assert_int_equal(cow_loop_read(f->loop, f->file, idx * SLICE, words, SLICE), 0);
	return words[1];
}

/* ---- tests ---- */

static void test_load_and_evict(void **state)
{
	struct fixture *f = *state;
	cache_open(f, 8, kicked);
	for (unsigned round = 0; round < 3; round++)
		for (uint64_t i = 0; i < 100; i++)
			visit_now(f, i, 0);
	assert_int_equal(f->nr_kicks, 0);
}

static void test_one_load_for_all(void **state)
{
	struct fixture *f = *state;
	cache_open(f, 8, kicked);
	struct visit v[3];
	for (int i = 0; i < 3; i++)
		visit_start(&v[i], f, 9, 0);
	settle(f);
	for (int i = 0; i < 3; i++)
		assert_true(v[i].done && v[i].seen == 9);
}

static void test_dirty_is_written(void **state)
{
	struct fixture *f = *state;
	cache_open(f, 16, kicked);
	visit_now(f, 7, 1);
	visit_now(f, 3, 5);
	visit_now(f, 7, 1);
	assert_true(cow_cache_is_dirty(&f->cache));
	assert_int_equal(counter_on_disk(f, 7), 0);
	assert_int_equal(write_back(f), 2);
	assert_false(cow_cache_is_dirty(&f->cache));
	assert_int_equal(counter_on_disk(f, 7), 2);
	assert_int_equal(counter_on_disk(f, 3), 5);
	assert_int_equal(write_back(f), 0);
}

static void test_limit_parks_and_wakes(void **state)
{
	struct fixture *f = *state;
	cache_open(f, 8, kicked);
	unsigned limit = f->cache.max_dirty;
	for (uint64_t i = 0; i < limit; i++)
		visit_now(f, i, 1);
	struct visit v;
	visit_start(&v, f, 50, 1);
	settle(f);
	assert_false(v.done);
	assert_true(f->nr_kicks > 0);
	visit_now(f, 0, 1); /* already dirty: no more room needed */
	assert_int_equal(write_back(f), limit);
	settle(f);
	assert_true(v.done);
	assert_int_equal(write_back(f), 1);
	assert_int_equal(counter_on_disk(f, 50), 1);
	assert_int_equal(counter_on_disk(f, 0), 2);
}

/* A full host met by a pass fails no task that has not waited through one: it gets another pass. */
static void test_full_host_of_others(void **state)
{
	struct fixture *f = *state;
	struct cow_captured list[8];
	cache_open(f, 8, kicked);
	uint8_t *buf = malloc((size_t)f->cache.max_dirty * SLICE);
	for (uint64_t i = 0; i < f->cache.max_dirty; i++)
		visit_now(f, i, 1);
	struct visit v;
	visit_start(&v, f, 50, 1);
	settle(f);
	for (int pass = 0; pass < 2; pass++) {
		unsigned nr = cow_cache_capture(&f->cache, buf, list), kicks = f->nr_kicks;
		cow_cache_complete(&f->cache, list, nr, -ENOSPC);
		settle(f);
		assert_int_equal(v.done, pass == 1);
		assert_int_equal(f->nr_kicks > kicks, pass == 0);
	}
	assert_int_equal(v.task.error, -ENOSPC);
	visit_start(&v, f, 50, 1);
	settle(f);
	unsigned nr = cow_cache_capture(&f->cache, buf, list);
	cow_cache_complete(&f->cache, list, nr, -ENOSPC);
	assert_true(write_back(f) > 0);
	settle(f);
	assert_true(v.done);
	assert_int_equal(v.task.error, 0);
	free(buf);
}

/*
 * A slot that is changed while it is being written is dirty again, and its older copy is what the
 * pass wrote.
 */
static void test_change_during_pass(void **state)
{
	struct fixture *f = *state;
	cache_open(f, 8, kicked);
	visit_now(f, 4, 1);
	uint8_t *buf = malloc((size_t)f->cache.max_dirty * SLICE);
	struct cow_captured list[8];
	assert_int_equal(cow_cache_capture(&f->cache, buf, list), 1);
	visit_now(f, 4, 1);
	assert_int_equal(((uint64_t *)list[0].copy)[1], 1);
	cow_cache_complete(&f->cache, list, 1, 0);
	assert_true(cow_cache_is_dirty(&f->cache));
	assert_int_equal(write_back(f), 1);
	assert_int_equal(counter_on_disk(f, 4), 2);
	free(buf);
}

static void test_failed_pass_stays_dirty(void **state)
{
	struct fixture *f = *state;
	cache_open(f, 8, kicked);
	visit_now(f, 4, 1);
	uint8_t *buf = malloc((size_t)f->cache.max_dirty * SLICE);
	struct cow_captured list[8];
	assert_int_equal(cow_cache_capture(&f->cache, buf, list), 1);
	cow_cache_complete(&f->cache, list, 1, -ENOSPC);
	free(buf);
	for (uint64_t i = 10; i < 60; i++)
		visit_now(f, i, 0); /* does not push it out */
	assert_int_equal(write_back(f), 1);
	assert_int_equal(counter_on_disk(f, 4), 1);
}

/*
 * All that can be made dirty is, shard by shard, and nothing can be written: whoever only reads
 * still gets every slice.
 */
static void test_reads_beside_dirty(void **state)
{
	struct fixture *f = *state;
	cache_open(f, 256, kicked);
	struct visit *v = calloc(FILE_SLICES, sizeof(*v));
	for (uint64_t i = 0; i < FILE_SLICES; i++) {
		atomic_store(&f->cache.dirty_room, UINT32_MAX); /* the shards' own limit */
		visit_start(&v[i], f, i, 1);
	}
	settle(f);
	struct visit read;
	for (uint64_t i = 0; i < FILE_SLICES; i++) {
		visit_start(&read, f, i, 0);
		settle(f);
		assert_true(read.done && !read.task.error && read.seen == i);
	}
	free(v);
}

static void test_drop(void **state)
{
	struct fixture *f = *state;
	cache_open(f, 8, kicked);
	visit_now(f, 4, 0);
	uint64_t words[SLICE / 8] = { 4, 99 };
	assert_int_equal(cow_loop_write(f->loop, f->file, 4 * SLICE, words, SLICE), 0);
	assert_true(cow_cache_drop(&f->cache, 3 * SLICE, 3 * SLICE));
	visit_now(f, 4, 1);
	assert_false(cow_cache_drop(&f->cache, 4 * SLICE, SLICE));
	write_back(f);
	assert_int_equal(counter_on_disk(f, 4), 100);
}

/* A directory cannot be read: every waiter learns of it, and the slot is free again. */
static void test_load_error(void **state)
{
	struct fixture *f = *state;
	cache_open(f, 8, kicked);
	struct visit v[2];
	for (int i = 0; i < 2; i++)
		visit_start(&v[i], f, UINT64_MAX / SLICE - 1, 0); /* an offset that no file has */
	settle(f);
	for (int i = 0; i < 2; i++) {
		assert_true(v[i].done);
		assert_true(v[i].task.error < 0);
	}
	visit_now(f, 1, 0);
}

/* ---- memory ---- */

static void wanted(void *ctx)
{
	atomic_fetch_add((atomic_uint *)ctx, 1);
}

static unsigned slots_of(const struct fixture *f)
{
	unsigned nr = 0;
	for (unsigned i = 0; i < f->cache.nr_shards; i++)
		nr += f->cache.shards[i].nr_slots;
	return nr;
}

static void read_all(struct fixture *f)
{
	for (uint64_t i = 0; i < FILE_SLICES; i++)
		visit_now(f, i, 0);
}

/* What fits is kept small; what does not asks for more, once, and gets on without. */
static void test_grows_when_wanted(void **state)
{
	struct fixture *f = *state;
	atomic_uint nr_wanted = 0;
	cache_open(f, FILE_SLICES, kicked);
	unsigned all = slots_of(f);
	cow_cache_start_small(&f->cache, 16 * SLICE, wanted, &nr_wanted);
	unsigned least = slots_of(f);
	assert_in_range(least, 16, all / 2);
	visit_now(f, 1, 1);
	assert_int_equal(nr_wanted, 0);
	read_all(f);
	read_all(f);
	assert_int_equal(nr_wanted, 1);
	assert_int_equal(slots_of(f), least);
	while (cow_cache_next_slots(&f->cache)) {
		unsigned next = cow_cache_next_slots(&f->cache);
		cow_cache_grow(&f->cache);
		assert_int_equal(slots_of(f), next);
		read_all(f);
	}
	assert_int_equal(slots_of(f), all);
	assert_int_equal(atomic_load(&f->cache.dirty_room), f->cache.max_dirty);
	assert_int_equal(write_back(f), 1);
}

/* Kept: all room at once, and none is given back, however long nobody uses it. */
static void test_keeps(void **state)
{
	struct fixture *f = *state;
	atomic_uint nr_wanted = 0;
	cache_open(f, FILE_SLICES, kicked);
	unsigned all = slots_of(f);
	cow_cache_keep(&f->cache); /* it never was small */
	assert_int_equal(slots_of(f), all);
	cow_cache_start_small(&f->cache, 16 * SLICE, wanted, &nr_wanted);
	assert_true(slots_of(f) < all);
	cow_cache_keep(&f->cache);
	assert_int_equal(slots_of(f), all);
	cow_cache_rest(&f->cache);
	cow_cache_rest(&f->cache);
	cow_cache_rest(&f->cache);
	assert_int_equal(slots_of(f), all);
}

/* A cache that nobody has used for two looks is small again; what is dirty stays where it is. */
static void test_rests(void **state)
{
	struct fixture *f = *state;
	atomic_uint nr_wanted = 0;
	cache_open(f, FILE_SLICES, kicked);
	cow_cache_start_small(&f->cache, 16 * SLICE, wanted, &nr_wanted);
	unsigned least = slots_of(f);
	read_all(f);
	cow_cache_grow(&f->cache);
	read_all(f);
	cow_cache_grow(&f->cache);
	unsigned grown = slots_of(f);
	assert_false(cow_cache_rest(&f->cache)); /* was used */
	for (uint64_t i = 0; i < FILE_SLICES; i += 4)
		visit_now(f, i, 1);
	assert_false(cow_cache_rest(&f->cache));
	assert_false(cow_cache_rest(&f->cache)); /* dirty slices in the way */
	assert_int_equal(slots_of(f), grown);
	read_all(f);
	assert_int_equal(write_back(f), FILE_SLICES / 4);
	assert_false(cow_cache_rest(&f->cache));
	assert_true(cow_cache_rest(&f->cache));
	assert_int_equal(slots_of(f), least);
	for (uint64_t i = 0; i < FILE_SLICES; i++) {
		visit_now(f, i, 1);
		write_back(f);
	}
	for (uint64_t i = 0; i < FILE_SLICES; i++)
		assert_int_equal(counter_on_disk(f, i), 1 + !(i % 4));
}

/* Dirty slices that nobody can write stand in no reader's way, in a small cache either. */
static void test_rests_with_dirty(void **state)
{
	struct fixture *f = *state;
	atomic_uint nr_wanted = 0;
	struct visit reader;
	cache_open(f, 16, kicked);
	assert_int_equal(f->cache.nr_shards, 1);
	cow_cache_start_small(&f->cache, 8 * SLICE, wanted, &nr_wanted);
	unsigned least = slots_of(f);
	assert_int_equal(least, 8);
	for (uint64_t i = 0; i < least; i++)
		visit_now(f, i, 0);
	cow_cache_grow(&f->cache);
	for (uint64_t i = 0; i < least; i++)
		visit_now(f, i, 1);
	cow_cache_rest(&f->cache);
	cow_cache_rest(&f->cache);
	visit_start(&reader, f, least, 0);
	settle(f);
	assert_true(reader.done);
	assert_int_equal(write_back(f), least);
	cow_cache_rest(&f->cache);
	assert_true(cow_cache_rest(&f->cache));
}

/* ---- many threads, one writer ---- */

#define THREADS 3
#define VISITS 3000

struct worker {
	struct fixture *f;
	struct cow_loop *loop;
	unsigned seed;
	uint64_t added;
};

static atomic_uint nr_running;

static void ignore_kick(void *ctx, struct cow_loop *loop)
{
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	cow_loop_enter(w->loop);
	for (unsigned i = 0; i < VISITS; i++) {
		struct visit v = { .cache = &w->f->cache,
				   .idx = (unsigned)rand_r(&w->seed) % 64,
				   .add = i & 1 };
		cow_task_init(&v.task, &failed_step, visit_end);
		cow_task_start(&v.task, w->loop, &visit_step);
		COW_IGNORE(cow_loop_run_until(w->loop, &v.done));
		w->added += v.add;
	}
	atomic_fetch_sub(&nr_running, 1);
	cow_loop_enter(NULL);
	return NULL;
}

static void test_threads(void **state)
{
	struct fixture *f = *state;
	atomic_uint nr_wanted = 0;
	cache_open(f, 64, ignore_kick);
	cow_cache_start_small(&f->cache, 16 * SLICE, wanted, &nr_wanted);
	struct worker workers[THREADS] = { 0 };
	pthread_t threads[THREADS];
	atomic_store(&nr_running, THREADS);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i].f = f;
		workers[i].seed = i + 1;
		assert_int_equal(cow_loop_plain_new(&workers[i].loop), 0);
		pthread_create(&threads[i], NULL, worker_main, &workers[i]);
	}
	while (atomic_load(&nr_running)) {
		write_back(f);
		while (cow_cache_next_slots(&f->cache))
			cow_cache_grow(&f->cache);
		cow_cache_rest(&f->cache);
	}
	uint64_t added = 0, stored = 0;
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		cow_loop_free(workers[i].loop);
		added += workers[i].added;
	}
	write_back(f);
	for (uint64_t i = 0; i < 64; i++)
		stored += counter_on_disk(f, i);
	assert_int_equal(stored, added);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_load_and_evict, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_load_for_all, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dirty_is_written, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limit_parks_and_wakes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_host_of_others, setup, teardown),
		cmocka_unit_test_setup_teardown(test_change_during_pass, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failed_pass_stays_dirty, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reads_beside_dirty, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_load_error, setup, teardown),
		cmocka_unit_test_setup_teardown(test_grows_when_wanted, setup, teardown),
		cmocka_unit_test_setup_teardown(test_keeps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rests, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rests_with_dirty, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
	};
	return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}
