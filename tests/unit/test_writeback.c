/* SPDX-License-Identifier: MIT */
/*
 * The order in which metadata reaches the host file (FORMAT.md 4), on a host in memory that keeps a
 * trace: refcounts | L2 | L1, unlink | refcount falls | punch; how few barriers it takes; errors.
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

#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/create/create.h"
#include "engine/format/format.h"
#include "engine/life/image.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "tests/memory/memory_host.h"
#include "tests/unit/disk_fixture.h"

#define CLUSTER 65536u
#define DISK (8u << 20)

struct fixture {
	struct memory_host *m;
	struct cow_image *image;
	struct cow_queue *queue;
	uint8_t *buf;
};

static void open_image(struct fixture *f)
{
	struct cow_open_options options = { .writable = true };
	struct cow_error err = { 0 };
	int ret = cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &f->image, &err);
	if (ret)
		fail_msg("open: %s", err.text);
	assert_int_equal(cow_queue_new(f->image, &f->m->loop, 64, &f->queue), 0);
}

static int close_image(struct fixture *f)
{
	struct cow_error err = { 0 };
	cow_queue_free(f->queue);
	return cow_image_close(f->image, &f->m->loop, &err);
}

static void create(struct fixture *f, bool lazy)
{
	struct cow_create_options options = { .size_bytes = DISK,
					      .has_size = true,
					      .cluster_bytes = CLUSTER,
					      .lazy_refcounts = lazy };
	struct cow_error err = { 0 };
	int ret = cow_create(&f->m->host, &f->m->loop, "/disk", &options, &err);
	if (ret)
		fail_msg("create: %s", err.text);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->m = memory_host_new();
	cow_loop_enter(&f->m->loop);
	f->buf = cow_buf_alloc(1u << 20);
	create(f, false);
	open_image(f);
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

static void do_op(struct fixture *f, enum cow_op_kind kind, uint64_t offset, uint64_t length)
{
	bool has_buf = kind == COW_OP_WRITE || kind == COW_OP_READ;
	assert_int_equal(cow_queue_do(f->queue, kind, 0, offset, length, has_buf ? f->buf : NULL),
			 0);
}

/* ---- which structure does a host write belong to, in the image as it stands now ---- */

enum place { HEADER, REFTABLE, REFBLOCK, L1, L2, DATA };

static uint64_t word_at(struct fixture *f, uint64_t off)
{
	return cow_load64_be(f->m->bytes + off);
}

static bool among(struct fixture *f, uint64_t table, uint64_t entries, uint64_t off)
{
	for (uint64_t i = 0; i < entries; i++) {
		uint64_t cluster = word_at(f, table + i * 8) & QCOW2_OFFSET_MASK;
		if (cluster && off >= cluster && off < cluster + CLUSTER)
			return true;
	}
	return false;
}

static enum place place_of(struct fixture *f, uint64_t off)
{
	struct cow_header h;
	struct cow_error err = { 0 };
	assert_int_equal(cow_header_decode(f->m->bytes, CLUSTER, &h, &err), 0);
	if (off < CLUSTER)
		return HEADER;
	if (off >= h.reftable_off && off < h.reftable_off + (uint64_t)h.reftable_clusters * CLUSTER)
		return REFTABLE;
	if (among(f, h.reftable_off, (uint64_t)h.reftable_clusters * CLUSTER / 8, off))
		return REFBLOCK;
	if (off >= h.l1_off && off < h.l1_off + h.l1_entries * 8)
		return L1;
	return among(f, h.l1_off, h.l1_entries, off) ? L2 : DATA;
}

/*
 * In the trace from `from` on: no write of `first` after the barrier that separates it from the
 * first write of `then`, and there is such a barrier.
 */
static void expect_barrier(struct fixture *f, unsigned from, enum place first, enum place then)
{
	bool seen_first = false, barrier = false, seen_then = false;
	for (unsigned i = from; i < f->m->nr_trace; i++) {
		struct memory_event *e = &f->m->trace[i];
		if (e->kind == COW_IO_SYNC)
			barrier = seen_first;
		if (e->kind != COW_IO_WRITE)
			continue;
		enum place place = place_of(f, e->offset);
		if (place == first) {
			seen_first = true;
			barrier = false;
			if (seen_then)
				fail_msg("event %u: a write of %d after one of %d", i, first, then);
		} else if (place == then) {
			seen_then = true;
			if (!barrier)
				fail_msg(
					"event %u: a write of %d without a barrier after one of %d",
					i, then, first);
		}
	}
	assert_true(seen_first && seen_then);
}

static unsigned count(struct fixture *f, unsigned from, enum cow_io_kind kind)
{
	unsigned nr = 0;
	for (unsigned i = from; i < f->m->nr_trace; i++)
		nr += f->m->trace[i].kind == kind;
	return nr;
}

/* ---- order ---- */

static void test_nothing_before_flush(void **state)
{
	struct fixture *f = *state;
	do_op(f, COW_OP_WRITE, 0, 4096);
	do_op(f, COW_OP_FLUSH, 0, 0);
	unsigned from = f->m->nr_trace;
	do_op(f, COW_OP_WRITE, CLUSTER, 4096);
	for (unsigned i = from; i < f->m->nr_trace; i++)
		if (f->m->trace[i].kind == COW_IO_WRITE)
			assert_int_equal(place_of(f, f->m->trace[i].offset), DATA);
	assert_int_equal(close_image(f), 0);
	disk_expect_clean(f->m);
}

static void test_allocating_write(void **state)
{
	struct fixture *f = *state;
	unsigned from = f->m->nr_trace;
	do_op(f, COW_OP_WRITE, 0, 4096);
	do_op(f, COW_OP_FLUSH, 0, 0);
	assert_int_equal(f->m->trace[f->m->nr_trace - 1].kind, COW_IO_SYNC);
	expect_barrier(f, from, REFBLOCK, L1);
	expect_barrier(f, from, L2, L1);
	from = f->m->nr_trace;
	for (unsigned i = 0; i < 100; i++) /* more than the first reservation */
		do_op(f, COW_OP_WRITE, (uint64_t)i * CLUSTER, 512);
	do_op(f, COW_OP_FLUSH, 0, 0);
	expect_barrier(f, from, REFBLOCK, L2);
	assert_int_equal(close_image(f), 0);
	disk_expect_clean(f->m);
}

/* The unlink is durable before the refcount falls, that before the hole is punched. */
static void test_discard(void **state)
{
	struct fixture *f = *state;
	do_op(f, COW_OP_WRITE, 0, 16 * CLUSTER);
	do_op(f, COW_OP_FLUSH, 0, 0);
	unsigned from = f->m->nr_trace;
	do_op(f, COW_OP_DISCARD, CLUSTER, 8 * CLUSTER);
	do_op(f, COW_OP_FLUSH, 0, 0);
	assert_int_equal(close_image(f), 0);
	unsigned refs = 0, punch = 0, syncs_before_punch = 0;
	expect_barrier(f, from, L2, REFBLOCK);
	for (unsigned i = from; i < f->m->nr_trace; i++) {
		struct memory_event *e = &f->m->trace[i];
		if (e->kind == COW_IO_WRITE && place_of(f, e->offset) == REFBLOCK && !refs)
			refs = i;
		if (e->kind == COW_IO_SYNC && refs && !punch)
			syncs_before_punch++;
		if (e->kind == COW_IO_PUNCH && !punch)
			punch = i;
	}
	assert_true(refs && punch > refs);
	assert_true(syncs_before_punch > 0);
	disk_expect_clean(f->m);
}

/* ---- how much ---- */

static void test_few_barriers(void **state)
{
	struct fixture *f = *state;
	do_op(f, COW_OP_WRITE, 0, 512);
	do_op(f, COW_OP_FLUSH, 0, 0);
	unsigned from = f->m->nr_trace, seed = 1;
	for (unsigned i = 0; i < 256; i++)
		do_op(f, COW_OP_WRITE, (uint64_t)rand_r(&seed) % (DISK / 4096) * 4096, 4096);
	do_op(f, COW_OP_FLUSH, 0, 0);
	unsigned syncs = count(f, from, COW_IO_SYNC);
	if (syncs > 5)
		fail_msg("256 random writes and a FLUSH took %u barriers", syncs);
	assert_int_equal(close_image(f), 0);
	disk_expect_clean(f->m);
}

static unsigned nr_done;

static void count_done(void *ctx, int result)
{
	assert_int_equal(result, 0);
	nr_done++;
}

static void test_group_commit(void **state)
{
	struct fixture *f = *state;
	do_op(f, COW_OP_WRITE, 0, 512);
	unsigned from = f->m->nr_trace;
	nr_done = 0;
	for (unsigned i = 0; i < 32; i++)
		cow_queue_submit(f->queue, i, COW_OP_FLUSH, 0, 0, 0, NULL, count_done, NULL);
	while (nr_done < 32)
		COW_IGNORE(cow_loop_poll(&f->m->loop));
	/* One pass for who came first, at most one more for who came while it ran. */
	assert_true(count(f, from, COW_IO_SYNC) <= 8);
	assert_int_equal(close_image(f), 0);
}

static void test_idle_flush_is_cheap(void **state)
{
	struct fixture *f = *state;
	do_op(f, COW_OP_WRITE, 0, 512);
	do_op(f, COW_OP_FLUSH, 0, 0);
	unsigned from = f->m->nr_trace;
	do_op(f, COW_OP_FLUSH, 0, 0);
	assert_int_equal(count(f, from, COW_IO_WRITE), 0);
	assert_true(count(f, from, COW_IO_SYNC) <= 1);
	assert_int_equal(close_image(f), 0);
}

/* ---- errors ---- */

/* Whatever word the host has for it, metadata and data are refused alike. */
static void refuse_a_flush_and_a_write(struct fixture *f, int error, uint64_t off)
{
	do_op(f, COW_OP_WRITE, off, CLUSTER);
	f->m->fail_error = error;
	f->m->fail_kind = COW_IO_WRITE;
	assert_int_equal(cow_queue_do(f->queue, COW_OP_FLUSH, 0, 0, 0, NULL), -ENOSPC);
	assert_null(cow_image_failure(f->image));
	do_op(f, COW_OP_FLUSH, 0, 0);
	f->m->fail_error = error;
	assert_int_equal(cow_queue_do(f->queue, COW_OP_WRITE, 0, off, CLUSTER, f->buf), -ENOSPC);
	assert_null(cow_image_failure(f->image));
}

static void test_full_host_is_no_damage(void **state)
{
	struct fixture *f = *state;
	memset(f->buf, 7, CLUSTER);
	refuse_a_flush_and_a_write(f, -ENOSPC, 0);
	refuse_a_flush_and_a_write(f, -EDQUOT, 2ull * CLUSTER);
	refuse_a_flush_and_a_write(f, -EFBIG, 4ull * CLUSTER);
	do_op(f, COW_OP_WRITE, CLUSTER, CLUSTER);
	memset(f->buf, 0, CLUSTER);
	do_op(f, COW_OP_READ, 0, CLUSTER);
	assert_int_equal(f->buf[0], 7);
	assert_int_equal(close_image(f), 0);
	disk_expect_clean(f->m);
}

/* After a failed fdatasync nothing can be trusted any more: no more writing, but reads go on. */
static void expect_sync_is_sticky(struct fixture *f, int error)
{
	memset(f->buf, 7, CLUSTER);
	do_op(f, COW_OP_WRITE, 0, CLUSTER);
	f->m->fail_error = error;
	f->m->fail_kind = COW_IO_SYNC;
	assert_true(cow_queue_do(f->queue, COW_OP_FLUSH, 0, 0, 0, NULL) < 0);
	assert_non_null(cow_image_failure(f->image));
	assert_true(cow_queue_do(f->queue, COW_OP_WRITE, 0, CLUSTER, 512, f->buf) < 0);
	assert_true(cow_queue_do(f->queue, COW_OP_WRITE, 0, 0, 512, f->buf) < 0);
	assert_true(cow_queue_do(f->queue, COW_OP_FLUSH, 0, 0, 0, NULL) < 0);
	memset(f->buf, 0, CLUSTER);
	do_op(f, COW_OP_READ, 0, CLUSTER);
	assert_int_equal(f->buf[0], 7);
	unsigned from = f->m->nr_trace;
	assert_true(close_image(f) < 0);
	for (unsigned i = from; i < f->m->nr_trace; i++)
		if (f->m->trace[i].kind == COW_IO_WRITE)
			assert_int_equal(place_of(f, f->m->trace[i].offset), HEADER);
}

static void test_failed_sync_is_sticky(void **state)
{
	expect_sync_is_sticky(*state, -EIO);
}

/* What a full host throws away then was accepted before: it is lost like any other. */
static void test_refused_sync_is_sticky(void **state)
{
	expect_sync_is_sticky(*state, -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_nothing_before_flush, setup, teardown),
		cmocka_unit_test_setup_teardown(test_allocating_write, setup, teardown),
		cmocka_unit_test_setup_teardown(test_discard, setup, teardown),
		cmocka_unit_test_setup_teardown(test_few_barriers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_group_commit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_idle_flush_is_cheap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_host_is_no_damage, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failed_sync_is_sticky, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused_sync_is_sticky, setup, teardown),
	};
	return cmocka_run_group_tests_name("writeback", tests, NULL, NULL);
}
