/* SPDX-License-Identifier: MIT */
/*
 * The cache of inflated clusters: by itself, and how often an image's clusters are inflated when
 * queues and streams meet at them.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/buf.h"
#include "engine/base/pages.h"
#include "engine/create/create.h"
#include "engine/image/state.h"
#include "engine/life/image.h"
#include "engine/request/op.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "tests/memory/memory_host.h"
#include "tests/unit/disk_fixture.h"

#define CLUSTER 65536u
#define NR_CLUSTERS 64u
#define BLOCK 4096u
#define NR_BLOCKS (NR_CLUSTERS * (CLUSTER / BLOCK))
#define MAX_QUEUES 4u
#define DEPTH 32u

/* ---- the cache by itself ---- */

static const struct cow_image *const one = (const struct cow_image *)"one",
				     *const two = (const struct cow_image *)"two";

static struct cow_inflated_slot *hit(struct cow_inflated *c, const struct cow_image *image,
				     uint64_t entry)
{
	struct cow_inflated_slot *slot = NULL;
	enum cow_inflated_answer answer = cow_inflated_ask(c, image, entry, NULL, NULL, &slot);
	assert_true(answer == (slot ? COW_INFLATED_HIT : COW_INFLATED_MISS));
	return slot;
}

static bool has(struct cow_inflated *c, const struct cow_image *image, uint64_t entry,
		uint8_t content)
{
	struct cow_inflated_slot *slot = hit(c, image, entry);
	if (!slot)
		return false;
	assert_int_equal(slot->data[0], content);
	cow_inflated_put(c, slot);
	return true;
}

static void start(struct cow_inflated *c, const struct cow_image *image, uint64_t entry,
		  struct cow_inflating *mine)
{
	struct cow_inflated_slot *slot;
	assert_int_equal(cow_inflated_ask(c, image, entry, mine, NULL, &slot), COW_INFLATED_MINE);
}

static void add(struct cow_inflated *c, const struct cow_image *image, uint64_t entry,
		uint8_t content, uint8_t **buf)
{
	struct cow_inflating mine;
	start(c, image, entry, &mine);
	memset(*buf, content, CLUSTER);
	cow_inflated_done(c, &mine, buf);
}

static void test_keeps_the_last(void **state)
{
	struct cow_limits limits;
	cow_limits_init(&limits, NULL);
	struct cow_inflated *c = cow_inflated_new(CLUSTER, &limits);
	uint8_t *buf = cow_pages_reserve(CLUSTER);
	unsigned nr = c->nr_slots;
	assert_int_equal(nr, COW_INFLATED_BYTES / CLUSTER);
	for (unsigned i = 0; i < nr; i++)
		add(c, i % 2 ? one : two, i, (uint8_t)i, &buf);
	for (unsigned i = 0; i < nr; i++) {
		assert_true(has(c, i % 2 ? one : two, i, (uint8_t)i));
		assert_false(has(c, i % 2 ? two : one, i, 0));
	}
	assert_true(has(c, two, 0, 0)); /* now 1 is the oldest */
	struct cow_inflated_slot *pinned = hit(c, two, 2);
	add(c, one, 1000, 200, &buf);
	assert_true(has(c, two, 0, 0));
	assert_false(has(c, one, 1, 1));
	for (unsigned i = 0; i < nr; i++)
		add(c, one, 2000 + i, 201, &buf);
	assert_int_equal(pinned->data[0], 2); /* whoever copies from it keeps it */
	cow_inflated_put(c, pinned);
	assert_int_equal(c->nr_inflated, 2 * nr + 1);
	cow_pages_free(buf, CLUSTER);
	cow_inflated_free(c);
}

static void test_drop(void **state)
{
	struct cow_limits limits;
	cow_limits_init(&limits, NULL);
	struct cow_inflated *c = cow_inflated_new(CLUSTER, &limits);
	uint8_t *buf = cow_pages_reserve(CLUSTER);
	struct cow_inflating mine;
	add(c, one, 1, 1, &buf);
	add(c, two, 1, 2, &buf);
	cow_inflated_drop(c, one, 1);
	assert_false(has(c, one, 1, 1));
	assert_true(has(c, two, 1, 2));
	start(c, one, 1, &mine);
	cow_inflated_drop(c, one, 1);
	cow_inflated_done(c, &mine, &buf); /* too old to keep */
	assert_false(has(c, one, 1, 1));
	add(c, one, 1, 3, &buf);
	assert_true(has(c, one, 1, 3));
	start(c, one, 9, &mine);
	cow_inflated_drop_all(c);
	cow_inflated_done(c, &mine, &buf);
	assert_false(has(c, one, 1, 3) || has(c, two, 1, 2) || has(c, one, 9, 0));
	cow_pages_free(buf, CLUSTER);
	cow_inflated_free(c);
}

static void test_large_clusters(void **state)
{
	struct cow_limits limits;
	cow_limits_init(&limits, NULL);
	struct cow_inflated *c = cow_inflated_new(2u << 20, &limits);
	assert_int_equal(c->nr_slots, COW_INFLATED_MIN_SLOTS);
	cow_inflated_free(c);
	c = cow_inflated_new(512, &limits);
	assert_int_equal(c->nr_slots, COW_INFLATED_MAX_SLOTS);
	cow_inflated_free(c);
}

/* ---- an image ---- */

struct fixture {
	struct memory_host *m;
	struct cow_image *image;
	unsigned nr_queues;
	struct cow_queue *queues[MAX_QUEUES];
	uint8_t *buf; /* the whole disk */
	unsigned nr_done, nr_failed;
};

static void open_image(struct fixture *f, unsigned nr_queues, bool writable)
{
	struct cow_open_options options = { .writable = writable,
					    .compress = writable,
					    .reserve_bytes = 32 * CLUSTER };
	struct cow_error err = { 0 };
	if (cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &f->image, &err))
		fail_msg("open: %s", err.text);
	f->nr_queues = nr_queues;
	for (unsigned i = 0; i < nr_queues; i++)
		assert_int_equal(cow_queue_new(f->image, &f->m->loop, DEPTH, &f->queues[i]), 0);
}

static void close_image(struct fixture *f)
{
	struct cow_error err = { 0 };
	for (unsigned i = 0; i < f->nr_queues; i++)
		cow_queue_free(f->queues[i]);
	assert_int_equal(cow_image_close(f->image, &f->m->loop, &err), 0);
}

static uint8_t content(uint64_t off)
{
	return (uint8_t)(off / CLUSTER * 7 + off / 512 % 5 + 1);
}

static void write_all(struct fixture *f)
{
	open_image(f, 1, true);
	for (uint64_t off = 0; off < (uint64_t)NR_CLUSTERS * CLUSTER; off += 512)
		memset(f->buf + off, content(off), 512);
	for (unsigned i = 0; i < NR_CLUSTERS; i++)
		assert_int_equal(cow_queue_do(f->queues[0], COW_OP_WRITE, 0, (uint64_t)i * CLUSTER,
					      CLUSTER, f->buf + (size_t)i * CLUSTER),
				 0);
	close_image(f);
}

static int setup(void **state)
{
	struct cow_create_options options = { .size_bytes = (uint64_t)NR_CLUSTERS * CLUSTER,
					      .has_size = true };
	struct fixture *f = calloc(1, sizeof(*f));
	f->m = memory_host_new();
	cow_loop_enter(&f->m->loop);
	f->buf = cow_buf_alloc((size_t)NR_CLUSTERS * CLUSTER);
	disk_create(f->m, &options);
	write_all(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	cow_loop_enter(NULL);
	free(f->buf);
	memory_host_free(f->m);
	free(f);
	return 0;
}

static void read_done(void *ctx, int result)
{
	struct fixture *f = ctx;
	f->nr_failed += result != 0;
	f->nr_done++;
}

/*
 * Reads all blocks, DEPTH at a time: block(i) is the i-th, by queue(i). Returns how many host reads
 * that took.
 */
static unsigned read_all(struct fixture *f, unsigned (*block)(unsigned i),
			 unsigned (*queue)(unsigned i))
{
	unsigned before = f->m->nr_trace, reads = 0;
	memset(f->buf, 0, (size_t)NR_CLUSTERS * CLUSTER);
	for (unsigned i = 0; i < NR_BLOCKS; i += DEPTH) {
		f->nr_done = f->nr_failed = 0;
		for (unsigned j = i; j < i + DEPTH; j++)
			cow_queue_submit(f->queues[queue(j) % f->nr_queues], j - i, COW_OP_READ, 0,
					 (uint64_t)block(j) * BLOCK, BLOCK,
					 f->buf + (size_t)block(j) * BLOCK, read_done, f);
		while (f->nr_done < DEPTH)
			COW_IGNORE(cow_loop_poll(&f->m->loop));
		assert_int_equal(f->nr_failed, 0);
	}
	for (uint64_t off = 0; off < (uint64_t)NR_CLUSTERS * CLUSTER; off++)
		assert_int_equal(f->buf[off], content(off));
	for (unsigned i = before; i < f->m->nr_trace; i++)
		reads += f->m->trace[i].kind == COW_IO_READ;
	return reads;
}

static unsigned in_order(unsigned i)
{
	return i;
}

/* Eight readers, each with an eighth of the disk. */
static unsigned by_eight(unsigned i)
{
	return i % 8 * (NR_BLOCKS / 8) + i / 8;
}

static unsigned by_runs(unsigned i)
{
	return i / 3;
}

static void check_once(struct fixture *f, unsigned nr_queues, const char *what,
		       unsigned (*block)(unsigned i), unsigned (*queue)(unsigned i))
{
	open_image(f, nr_queues, false);
	unsigned reads = read_all(f, block, queue);
	printf("%s: %u queues: %u host reads, %u clusters inflated of %u\n", what, nr_queues, reads,
	       (unsigned)f->image->inflated->nr_inflated, NR_CLUSTERS);
	assert_int_equal(f->image->inflated->nr_inflated, NR_CLUSTERS);
	assert_in_range(reads, NR_CLUSTERS, NR_CLUSTERS + 2); /* and the mapping */
	close_image(f);
}

static void test_inflated_once(void **state)
{
	for (unsigned queues = 1; queues <= MAX_QUEUES; queues *= 2) {
		check_once(*state, queues, "sequential", in_order, in_order);
		check_once(*state, queues, "sequential, runs to a queue", in_order, by_runs);
		check_once(*state, queues, "eight streams", by_eight, in_order);
	}
}

/* Those who wait for a cluster that cannot be had try themselves; the next time all goes well. */
static void test_host_error(void **state)
{
	struct fixture *f = *state;
	open_image(f, 2, false);
	/* the mapping is there */
	assert_int_equal(cow_queue_do(f->queues[0], COW_OP_READ, 0, 0, BLOCK, f->buf), 0);
	for (unsigned round = 0; round < 2; round++) {
		f->m->fail_error = -EIO;
		f->m->fail_kind = COW_IO_READ;
		f->m->fail_skip = 0;
		f->nr_done = f->nr_failed = 0;
		for (unsigned i = 0; i < DEPTH; i++)
			cow_queue_submit(f->queues[i % 2], i, COW_OP_READ, 0,
					 (5 + round) * CLUSTER + i % 16 * BLOCK, BLOCK,
					 f->buf + i * BLOCK, read_done, f);
		while (f->nr_done < DEPTH)
			COW_IGNORE(cow_loop_poll(&f->m->loop));
		assert_int_equal(f->nr_failed, 1);
	}
	assert_int_equal(f->queues[0]->nr_packed, COW_QUEUE_PACKED);
	assert_int_equal(f->queues[1]->nr_packed, COW_QUEUE_PACKED);
	close_image(f);
}

static void fill_with_noise(uint8_t *buf, size_t bytes, uint32_t seed)
{
	for (size_t i = 0; i < bytes; i++) {
		seed = seed * 1664525 + 1013904223;
		buf[i] = (uint8_t)(seed >> 24);
	}
}

/*
 * Compressed clusters written over and over: space is used again, and entries come back that stand
 * for other content. They fill most of a cluster, so that the tail is soon used up, and their
 * lengths are the same.
 */
static void test_entries_used_again(void **state)
{
	struct fixture *f = *state;
	uint8_t *back = cow_buf_alloc(CLUSTER);
	open_image(f, 1, true);
	memset(f->buf, 0, CLUSTER);
	for (uint32_t round = 1; round < 300; round++) {
		uint64_t off = round % 3 * CLUSTER;
		fill_with_noise(f->buf, CLUSTER - 4096, round);
		assert_int_equal(cow_queue_do(f->queues[0], COW_OP_WRITE, 0, off, CLUSTER, f->buf),
				 0);
		assert_int_equal(cow_queue_do(f->queues[0], COW_OP_READ, 0, off, CLUSTER, back), 0);
		assert_memory_equal(back, f->buf, CLUSTER);
		if (round % 8 == 0)
			assert_int_equal(cow_queue_do(f->queues[0], COW_OP_FLUSH, 0, 0, 0, NULL),
					 0);
	}
	close_image(f);
	free(back);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keeps_the_last),
		cmocka_unit_test(test_drop),
		cmocka_unit_test(test_large_clusters),
		cmocka_unit_test_setup_teardown(test_inflated_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_host_error, setup, teardown),
		cmocka_unit_test_setup_teardown(test_entries_used_again, setup, teardown),
	};
	return cmocka_run_group_tests_name("inflated", tests, NULL, NULL);
}
