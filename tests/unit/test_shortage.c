/* SPDX-License-Identifier: MIT */
/*
 * Internal limits, made tiny, are reached: requests wait and go on, none of them fails, and the
 * image stays good. The host always has room here.
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
#include "engine/core/limits.h"
#include "engine/create/create.h"
#include "engine/life/image.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "tests/memory/memory_host.h"
#include "tests/unit/disk_fixture.h"

#define CLUSTER 4096u
#define DISK (32u << 20)
#define QUEUES 2
#define DEPTH 16
#define OP_BYTES (64u << 10)

struct fixture {
	struct memory_host *m;
	struct cow_image *image;
	struct cow_queue *queues[QUEUES];
	uint8_t *buf;
	unsigned running, failed;
	int error;
	bool busy[QUEUES][DEPTH];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->m = memory_host_new();
	cow_loop_enter(&f->m->loop);
	f->buf = cow_buf_alloc(1u << 20);
	memset(f->buf, 5, 1u << 20);
	struct cow_create_options options = { .size_bytes = DISK,
					      .has_size = true,
					      .cluster_bytes = CLUSTER };
	struct cow_error err = { 0 };
	if (cow_create(&f->m->host, &f->m->loop, "/disk", &options, &err))
		fail_msg("create: %s", err.text);
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

static void open_image(struct fixture *f, const struct cow_limits *limits)
{
	struct cow_open_options options = { .writable = true, .limits = limits };
	struct cow_error err = { 0 };
	if (cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &f->image, &err))
		fail_msg("open: %s", err.text);
	for (unsigned i = 0; i < QUEUES; i++)
		assert_int_equal(cow_queue_new(f->image, &f->m->loop, DEPTH, &f->queues[i]), 0);
}

static void close_image(struct fixture *f)
{
	struct cow_error err = { 0 };
	for (unsigned i = 0; i < QUEUES; i++)
		cow_queue_free(f->queues[i]);
	if (cow_image_close(f->image, &f->m->loop, &err))
		fail_msg("close: %s", err.text);
}

/* ---- many requests at once ---- */

struct tag {
	struct fixture *f;
	bool *busy;
};
static struct tag tags[QUEUES][DEPTH];

static void done(void *ctx, int result)
{
	struct tag *t = ctx;
	*t->busy = false;
	t->f->running--;
	if (result) {
		t->f->failed++;
		t->f->error = result;
	}
}

static void run_until(struct fixture *f, unsigned running)
{
	for (unsigned i = 0; f->running > running; i++) {
		if (i == 1000000)
			fail_msg("%u requests hang", f->running);
		COW_IGNORE(cow_loop_poll(&f->m->loop));
	}
}

static void submit(struct fixture *f, unsigned queue, enum cow_op_kind kind, uint64_t offset,
		   uint64_t length)
{
	unsigned idx = 0;
	run_until(f, QUEUES * DEPTH - 2);
	while (f->busy[queue][idx])
		if (++idx == DEPTH) {
			run_until(f, 0);
			idx = 0;
		}
	tags[queue][idx] = (struct tag){ f, &f->busy[queue][idx] };
	f->busy[queue][idx] = true;
	f->running++;
	bool has_buf = kind == COW_OP_WRITE || kind == COW_OP_READ;
	cow_queue_submit(f->queues[queue], idx, kind, 0, offset, length, has_buf ? f->buf : NULL,
			 done, &tags[queue][idx]);
}

/* First writes of the lower half in an order that scatters it over the host file. */
static void scatter(struct fixture *f)
{
	unsigned nr = DISK / 2 / CLUSTER;
	for (unsigned i = 0; i < nr; i++)
		submit(f, 0, COW_OP_WRITE, (uint64_t)(i * 1237u % nr) * CLUSTER, CLUSTER);
	run_until(f, 0);
}

static void expect_no_error(struct fixture *f)
{
	run_until(f, 0);
	assert_null(cow_image_failure(f->image));
	if (f->failed)
		fail_msg("%u requests failed, the last one with %d", f->failed, f->error);
}

/* A discard of scattered clusters beside first writes elsewhere. */
static void discard_beside_writes(struct fixture *f, unsigned rounds)
{
	for (unsigned round = 0; round < rounds; round++) {
		for (unsigned i = 0; i < DISK / 2 / OP_BYTES; i++) {
			submit(f, 0, COW_OP_DISCARD, (uint64_t)i * OP_BYTES, OP_BYTES);
			submit(f, 1, COW_OP_WRITE, DISK / 2 + (uint64_t)i * OP_BYTES, OP_BYTES);
			submit(f, 1, COW_OP_DISCARD, DISK / 2 + (uint64_t)(i ^ 31) * OP_BYTES,
			       OP_BYTES / 2);
		}
		expect_no_error(f);
		if (round + 1 < rounds)
			scatter(f);
	}
}

static void test_small_ring(void **state)
{
	struct fixture *f = *state;
	struct cow_limits limits = { .ring_own = 128, .ring = 1 };
	open_image(f, &limits);
	scatter(f);
	discard_beside_writes(f, 2);
	close_image(f);
	disk_expect_clean(f->m);
}

static void test_everything_small(void **state)
{
	struct fixture *f = *state;
	struct cow_limits limits = { .ring_own = 128,
				     .ring = 1,
				     .release_batch = 3,
				     .release_punches = 1,
				     .cache_slots = 8,
				     .dirty_slots = 1,
				     .dirty_blocks = 1,
				     .pass_writes = 1,
				     .extents = 2,
				     .pieces = 1,
				     .bounces = 1,
				     .packed = 1,
				     .pack_clusters = 1,
				     .inflated = 1 };
	open_image(f, &limits);
	scatter(f);
	discard_beside_writes(f, 1);
	close_image(f);
	disk_expect_clean(f->m);
}

/* ---- a full host, met wherever it can be ---- */

/*
 * Tables of several blocks: 512-byte clusters, 64-bit refcounts, so that a refcount block is for
 * 32 KiB, and a block of its table for 2 MiB.
 */
static void create_narrow(struct fixture *f)
{
	struct cow_create_options options = { .size_bytes = DISK,
					      .has_size = true,
					      .cluster_bytes = 512,
					      .refcount_bits = 64,
					      .overwrite = true };
	struct cow_error err = { 0 };
	if (cow_create(&f->m->host, &f->m->loop, "/disk", &options, &err))
		fail_msg("create: %s", err.text);
}

/* Some requests may hear of it; the image stays good, and the next ones go on. */
static void test_full_host_anywhere(void **state)
{
	struct fixture *f = *state;
	const struct cow_limits limits = { .dirty_blocks = 1 };
	unsigned nr_hit = 0;
	for (unsigned skip = 0; skip < 300; skip += 20) {
		create_narrow(f);
		open_image(f, &limits);
		for (unsigned mib = 0; mib < 7; mib++)
			submit(f, 0, COW_OP_WRITE, (uint64_t)mib << 20, 1u << 20);
		run_until(f, 0);
		f->failed = 0;
		f->m->fail_kind = COW_IO_WRITE;
		f->m->fail_skip = skip;
		f->m->fail_more = 20;
		f->m->fail_error = -ENOSPC;
		for (unsigned i = 0; i < 24; i++)
			submit(f, i % 2, COW_OP_WRITE, (7u << 20) + (uint64_t)i * OP_BYTES,
			       OP_BYTES);
		run_until(f, 0);
		nr_hit += f->failed != 0;
		f->failed = 0;
		f->m->fail_error = 0;
		f->m->fail_more = 0;
		if (cow_image_failure(f->image))
			fail_msg("a full host at write %u: %s", skip, cow_image_failure(f->image));
		submit(f, 0, COW_OP_WRITE, 9u << 20, 1u << 20);
		expect_no_error(f);
		close_image(f);
		disk_expect_clean(f->m);
	}
	assert_true(nr_hit > 0);
}

/* A host that lacks something just now is asked again, with pauses, but not for ever. */
static void test_host_says_again(void **state)
{
	struct fixture *f = *state;
	open_image(f, NULL);
	assert_int_equal(cow_queue_do(f->queues[0], COW_OP_WRITE, 0, 0, CLUSTER, f->buf), 0);
	f->m->fail_kind = COW_IO_READ;
	f->m->fail_error = -EAGAIN;
	f->m->fail_more = 5;
	uint64_t start = f->m->clock_ns;
	assert_int_equal(cow_queue_do(f->queues[0], COW_OP_READ, 0, 0, CLUSTER, f->buf), 0);
	assert_true(f->m->clock_ns - start > 10u * 1000 * 1000);
	f->m->fail_error = -EAGAIN;
	f->m->fail_more = 1000;
	start = f->m->clock_ns;
	assert_int_equal(cow_queue_do(f->queues[0], COW_OP_READ, 0, 0, CLUSTER, f->buf), -EIO);
	assert_true(f->m->clock_ns - start > 10ull * 1000 * 1000 * 1000);
	assert_true(f->m->fail_more > 900);
	f->m->fail_error = 0;
	close_image(f);
	disk_expect_clean(f->m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_small_ring, setup, teardown),
		cmocka_unit_test_setup_teardown(test_everything_small, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_host_anywhere, setup, teardown),
		cmocka_unit_test_setup_teardown(test_host_says_again, setup, teardown),
	};
	return cmocka_run_group_tests_name("shortage", tests, NULL, NULL);
}
