/* SPDX-License-Identifier: MIT */
/*
 * Allocation seen from outside: nothing leaks, what is freed is used again, tables grow, a full
 * host is no damage.
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
#include "engine/create/create.h"
#include "engine/life/image.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "tests/memory/memory_host.h"
#include "tests/unit/disk_fixture.h"

struct fixture {
	struct memory_host *m;
	struct cow_image *image;
	struct cow_queue *queue;
	uint8_t *buf;
	uint64_t reserve_bytes;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->m = memory_host_new();
	cow_loop_enter(&f->m->loop);
	f->buf = cow_buf_alloc(1u << 20);
	memset(f->buf, 5, 1u << 20);
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

static void create(struct fixture *f, uint64_t size, uint32_t cluster, uint32_t bits)
{
	struct cow_create_options options = { .size_bytes = size,
					      .has_size = true,
					      .cluster_bytes = cluster,
					      .refcount_bits = bits,
					      .overwrite = true };
	struct cow_error err = { 0 };
	int ret = cow_create(&f->m->host, &f->m->loop, "/disk", &options, &err);
	if (ret)
		fail_msg("create: %s", err.text);
}

static void open_image(struct fixture *f)
{
	struct cow_open_options options = { .writable = true, .reserve_bytes = f->reserve_bytes };
	struct cow_error err = { 0 };
	int ret = cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &f->image, &err);
	if (ret)
		fail_msg("open: %s", err.text);
	assert_int_equal(cow_queue_new(f->image, &f->m->loop, 4, &f->queue), 0);
}

static void close_image(struct fixture *f)
{
	struct cow_error err = { 0 };
	cow_queue_free(f->queue);
	int ret = cow_image_close(f->image, &f->m->loop, &err);
	if (ret)
		fail_msg("close: %s", err.text);
}

static int try_op(struct fixture *f, enum cow_op_kind kind, uint64_t offset, uint64_t length)
{
	bool has_buf = kind == COW_OP_WRITE || kind == COW_OP_READ;
	return cow_queue_do(f->queue, kind, 0, offset, length, has_buf ? f->buf : NULL);
}

static void do_op(struct fixture *f, enum cow_op_kind kind, uint64_t offset, uint64_t length)
{
	assert_int_equal(try_op(f, kind, offset, length), 0);
}

/* ---- tests ---- */

static void test_every_shape_is_clean(void **state)
{
	struct fixture *f = *state;
	static const uint32_t clusters[] = { 512, 4096, 65536, 2097152 };
	for (unsigned c = 0; c < 4; c++) {
		for (uint32_t bits = 1; bits <= 64; bits *= 2) {
			unsigned seed = bits;
			create(f, 8u << 20, clusters[c], bits);
			open_image(f);
			for (unsigned i = 0; i < 40; i++)
				do_op(f, COW_OP_WRITE, (uint64_t)rand_r(&seed) % 16384 * 512,
				      512 * (i % 3 ? 1 : 60) % (1u << 20));
			do_op(f, COW_OP_DISCARD, 1u << 20, 2u << 20);
			do_op(f, COW_OP_WRITE_ZEROES, 5u << 20, 1000 * 512);
			close_image(f);
			disk_expect_clean(f->m);
		}
	}
}

/* The host file ends near what is in use after a clean close. */
static void test_file_is_trimmed(void **state)
{
	struct fixture *f = *state;
	create(f, 32u << 20, 65536, 16);
	open_image(f);
	do_op(f, COW_OP_WRITE, 0, 512);
	close_image(f);
	assert_true(memory_size(f->m) <= 16 * 65536);
	disk_expect_clean(f->m);
}

static void test_freed_clusters_are_used_again(void **state)
{
	struct fixture *f = *state;
	create(f, 32u << 20, 4096, 16);
	open_image(f);
	for (unsigned round = 0; round < 30; round++) {
		for (unsigned mib = 0; mib < 4; mib++)
			do_op(f, COW_OP_WRITE, (uint64_t)((round + mib) % 32) << 20, 1u << 20);
		do_op(f, COW_OP_DISCARD, 0, 32u << 20);
		do_op(f, COW_OP_FLUSH, 0, 0);
		for (unsigned i = 0; i < 100; i++) /* let the release go on */
			COW_IGNORE(cow_loop_poll(&f->m->loop));
	}
	close_image(f);
	disk_expect_clean(f->m);
	/* 120 MiB went through; at most a few rounds may have been on their way at once. */
	if (memory_size(f->m) > 24u << 20)
		fail_msg("the file grew to %llu bytes", (unsigned long long)memory_size(f->m));
}

/*
 * A new attach knows nothing of what is free; it finds it all the same, before the file has grown
 * by much.
 */
static void test_free_is_found_after_open(void **state)
{
	struct fixture *f = *state;
	f->reserve_bytes = 1u << 20;
	create(f, 48u << 20, 4096, 16);
	open_image(f);
	for (unsigned mib = 0; mib < 24; mib++)
		do_op(f, COW_OP_WRITE, (uint64_t)mib << 20, 1u << 20);
	do_op(f, COW_OP_DISCARD, 0, 16u << 20);
	close_image(f);
	uint64_t before = memory_size(f->m);
	open_image(f);
	for (unsigned mib = 24; mib < 38; mib++)
		do_op(f, COW_OP_WRITE, (uint64_t)mib << 20, 1u << 20);
	close_image(f);
	disk_expect_clean(f->m);
	if (memory_size(f->m) > before + (1u << 20))
		fail_msg("the file grew by %llu bytes beside 16 MiB of free clusters",
			 (unsigned long long)(memory_size(f->m) - before));
}

/* The same on a block device, which cannot grow: all that is free can be had. */
static void test_free_is_found_on_a_device(void **state)
{
	struct fixture *f = *state;
	create(f, 48u << 20, 4096, 16);
	memory_set_size(f->m, 16u << 20);
	f->m->file->fixed = true;
	open_image(f);
	uint64_t end = 0;
	while (!try_op(f, COW_OP_WRITE, end, 65536))
		end += 65536;
	assert_true(end > 12u << 20);
	do_op(f, COW_OP_DISCARD, 8u << 20, 2u << 20);
	close_image(f);
	open_image(f);
	for (unsigned i = 0; i < 31; i++)
		do_op(f, COW_OP_WRITE, (40u << 20) + i * 65536u, 65536);
	close_image(f);
	disk_expect_clean(f->m);
}

static void test_refcount_table_grows(void **state)
{
	struct fixture *f = *state;
	/* one refcount block for 32 KiB, one table cluster for 2 MiB */
	create(f, 16u << 20, 512, 64);
	open_image(f);
	for (unsigned mib = 0; mib < 12; mib++)
		do_op(f, COW_OP_WRITE, (uint64_t)mib << 20, 1u << 20);
	close_image(f);
	disk_expect_clean(f->m);
	open_image(f);
	memset(f->buf, 0, 1u << 20);
	do_op(f, COW_OP_READ, 11u << 20, 1u << 20);
	assert_int_equal(f->buf[0], 5);
	assert_int_equal(f->buf[(1u << 20) - 1], 5);
	close_image(f);
	disk_expect_clean(f->m);
}

/*
 * The host fills up in the middle: writes fail, nothing breaks, and room made by a discard can be
 * used.
 */
static void full_host(struct fixture *f)
{
	uint64_t offset = 0;
	int ret = 0;
	do_op(f, COW_OP_WRITE, 0, 512);
	do_op(f, COW_OP_FLUSH, 0, 0); /* the L1 table has its space from here on */
	while (!ret && offset < 32u << 20) {
		ret = try_op(f, COW_OP_WRITE, offset, 1u << 18);
		offset += 1u << 18;
	}
	assert_int_equal(ret, -ENOSPC);
	assert_true(offset > 4u << 20);
	assert_null(cow_image_failure(f->image));
	do_op(f, COW_OP_FLUSH, 0, 0);
	do_op(f, COW_OP_READ, 0, 1u << 20);
	assert_int_equal(f->buf[0], 5);
	/* What was freed a moment ago is still on its way back, and there is nothing else. */
	for (unsigned i = 0; i < 8; i++) {
		do_op(f, COW_OP_DISCARD, 0, 2u << 20);
		do_op(f, COW_OP_WRITE, 0, 1u << 20);
		do_op(f, COW_OP_WRITE, 1u << 20, 1u << 20);
	}
	close_image(f);
	disk_expect_clean(f->m);
}

static void test_full_host(void **state)
{
	struct fixture *f = *state;
	create(f, 32u << 20, 65536, 16);
	f->m->limit = 16u << 20;
	open_image(f);
	full_host(f);
}

static void test_full_block_device(void **state)
{
	struct fixture *f = *state;
	create(f, 32u << 20, 65536, 16);
	memory_set_size(f->m, 16u << 20);
	f->m->file->fixed = true;
	memory_fill(f->m, 8u << 20, 0xee, 8u << 20); /* a device holds old bytes, not holes */
	open_image(f);
	do_op(f, COW_OP_WRITE, (31u << 20) + 512, 512);
	do_op(f, COW_OP_READ, 31u << 20, 65536);
	assert_int_equal(f->buf[0], 0);
	assert_int_equal(f->buf[512], 5);
	assert_int_equal(f->buf[1024], 0);
	memset(f->buf, 5, 1u << 20);
	full_host(f);
}

static void set_result(void *ctx, int result)
{
	*(int *)ctx = result;
}

static void start_write(struct fixture *f, unsigned idx, uint64_t offset, uint64_t length,
			int *result)
{
	*result = 1;
	cow_queue_submit(f->queue, idx, COW_OP_WRITE, 0, offset, length, f->buf, set_result,
			 result);
}

static void run_all(struct fixture *f)
{
	for (unsigned i = 0; i < 1000; i++)
		COW_IGNORE(cow_loop_poll(&f->m->loop));
}

/*
 * A write finds the host full while what was freed waits for another request to end; that ends, and
 * the clusters are there before the write has got back what it had begun.
 */
static void test_freed_while_unwinding(void **state)
{
	const uint64_t slow = 1024, slower = 2048;
	struct fixture *f = *state;
	int first, second;
	create(f, 32u << 20, 65536, 16);
	memory_set_size(f->m, 8u << 20);
	f->m->file->fixed = true;
	open_image(f);
	uint64_t end = 0;
	while (!try_op(f, COW_OP_WRITE, end, 65536))
		end += 65536;
	do_op(f, COW_OP_FLUSH, 0, 0);
	f->m->hold_bytes = slow;
	start_write(f, 0, 0, slow, &first);
	run_all(f);
	do_op(f, COW_OP_DISCARD, 1u << 20, 1u << 20);
	run_all(f);
	f->m->hold_bytes = slower;
	start_write(f, 1, (1u << 20) - slower, slower + 65536, &second);
	run_all(f);
	assert_int_equal(first, 1);
	assert_int_equal(second, 1);
	memory_let_go(f->m, slow);
	run_all(f);
	assert_int_equal(first, 0);
	assert_int_equal(second, 1);
	memory_let_go(f->m, slower);
	run_all(f);
	assert_int_equal(second, 0);
	close_image(f);
	disk_expect_clean(f->m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_every_shape_is_clean, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_is_trimmed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_freed_clusters_are_used_again, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_free_is_found_after_open, setup, teardown),
		cmocka_unit_test_setup_teardown(test_free_is_found_on_a_device, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refcount_table_grows, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_block_device, setup, teardown),
		cmocka_unit_test_setup_teardown(test_freed_while_unwinding, setup, teardown),
	};
	return cmocka_run_group_tests_name("alloc", tests, NULL, NULL);
}
