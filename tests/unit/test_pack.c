/* SPDX-License-Identifier: MIT */
/*
 * Writing compressed clusters: one behind the other into the same host clusters, each with its
 * reference, one request at a time.
 */
#include "tests/unit/request_fixture.h"

static int setup(void **state)
{
	request_setup(state);
	struct fixture *f = *state;
	close_image(f);
	f->options.compress = true;
	open_image(f);
	return 0;
}

static struct cow_compressed packed_at(const struct fixture *f, uint64_t off)
{
	uint64_t entry = entry_of(f, off);
	assert_true(entry & QCOW2_COMPRESSED);
	return cow_compressed_decode(entry, 16);
}

static void test_one_behind_the_other(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 2 * CLUSTER, 1);
	settle(f);
	struct cow_compressed a = packed_at(f, 0), b = packed_at(f, CLUSTER);
	assert_true(a.bytes < 1024);
	assert_int_equal(b.off, a.off + a.bytes);
	/* each has its reference, and so has the tail that goes on there */
	assert_int_equal(refcount_at(f, a.off), 3);
	expect_bytes(f, 0, 2 * CLUSTER, 1);
	close_image(f);
	assert_int_equal(refcount_at(f, a.off), 2);
	open_image(f);
	expect_bytes(f, 0, 2 * CLUSTER, 1);
}

static void test_parts_are_not_packed(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, CLUSTER - 512, 1);
	settle(f);
	assert_true(entry_of(f, 0) & QCOW2_COPIED);
}

/* What does not get smaller is written as it is. */
static void test_noise_is_not_packed(void **state)
{
	struct fixture *f = *state;
	uint32_t state32 = 12345;
	f->results[0] = PENDING;
	for (unsigned i = 0; i < CLUSTER; i++) {
		state32 = state32 * 1664525u + 1013904223u;
		f->bufs[0][i] = (uint8_t)(state32 >> 24);
	}
	cow_queue_submit(f->queue, 0, COW_OP_WRITE, 0, 0, CLUSTER, f->bufs[0], note_result,
			 &f->results[0]);
	expect_result(f, 0, 0);
	settle(f);
	assert_true(entry_of(f, 0) & QCOW2_COPIED);
	assert_memory_equal(f->m->bytes + host_of(f, 0), f->bufs[0], CLUSTER);
	/* and who comes next has the compressor */
	write_bytes(f, CLUSTER, CLUSTER, 1);
	settle(f);
	assert_true(entry_of(f, CLUSTER) & QCOW2_COMPRESSED);
}

/* References go where the entry goes. */
static void test_overwritten(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 2 * CLUSTER, 1);
	settle(f);
	uint64_t old = packed_at(f, 0).off;
	write_bytes(f, 0, CLUSTER, 2);
	settle(f);
	assert_int_not_equal(packed_at(f, 0).off, old);
	expect_bytes(f, 0, CLUSTER, 2);
	expect_bytes(f, CLUSTER, CLUSTER, 1);
	assert_int_equal(refcount_at(f, old), 3); /* the new one lies there too */
	write_bytes(f, 0, 512, 3);		  /* no longer packed */
	settle(f);
	assert_true(entry_of(f, 0) & QCOW2_COPIED);
	expect_bytes(f, 0, 512, 3);
	expect_bytes(f, 512, CLUSTER - 512, 2);
	assert_int_equal(refcount_at(f, old), 2);
}

/* The reference taken before the write comes back: request_teardown() finds no leak. */
static void test_a_failed_write(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, CLUSTER, 1);
	settle(f);
	uint64_t host = packed_at(f, 0).off;
	f->m->fail_kind = COW_IO_WRITE;
	f->m->fail_error = -EIO;
	start(f, 0, COW_OP_WRITE, 0, CLUSTER, CLUSTER, 2);
	expect_result(f, 0, -EIO);
	expect_bytes(f, CLUSTER, CLUSTER, 0);
	settle(f);
	assert_int_equal(entry_of(f, CLUSTER), 0);
	write_bytes(f, CLUSTER, CLUSTER, 3);
	settle(f);
	assert_int_equal(refcount_at(f, host), 3); /* the tail's, and one each */
	expect_bytes(f, CLUSTER, CLUSTER, 3);
	expect_bytes(f, 0, CLUSTER, 1);
}

static void test_one_at_a_time(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, CLUSTER, 1);
	settle(f);
	f->m->hold_bytes = packed_at(f, 0).bytes;
	uint64_t bytes = f->m->hold_bytes;
	start(f, 0, COW_OP_WRITE, 0, CLUSTER, CLUSTER, 2);
	start(f, 1, COW_OP_WRITE, 0, 2 * CLUSTER, CLUSTER, 3);
	start(f, 2, COW_OP_WRITE, 0, CLUSTER, CLUSTER, 4);
	expect_at(f, 0, "pack: written", NULL);
	expect_at(f, 1, "pack: squeeze", "the compressor");
	expect_at(f, 2, "pack: claim", "a request that changes the range");
	memory_let_go(f->m, bytes);
	for (unsigned i = 0; i < 3; i++)
		expect_result(f, i, 0);
	expect_bytes(f, CLUSTER, CLUSTER, 4);
	expect_bytes(f, 2 * CLUSTER, CLUSTER, 3);
	settle(f);
	struct cow_compressed a = packed_at(f, CLUSTER), b = packed_at(f, 2 * CLUSTER);
	assert_true(a.off + a.bytes <= b.off || b.off + b.bytes <= a.off);
}

/* Nobody writes a hole where a packed cluster is about to be: it would be lost. */
static void test_parts_wait(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, CLUSTER, 1);
	settle(f);
	uint64_t bytes = packed_at(f, 0).bytes;
	f->m->hold_bytes = bytes;
	start(f, 0, COW_OP_WRITE, 0, CLUSTER, CLUSTER, 2);
	expect_at(f, 0, "pack: written", NULL);
	start(f, 1, COW_OP_WRITE, 0, CLUSTER + 4096, 4096, 3);
	expect_at(f, 1, "write: map", "a request that changes the range");
	memory_let_go(f->m, bytes);
	expect_result(f, 0, 0);
	expect_result(f, 1, 0);
	expect_bytes(f, CLUSTER, 4096, 2);
	expect_bytes(f, CLUSTER + 4096, 4096, 3);
	expect_bytes(f, CLUSTER + 8192, CLUSTER - 8192, 2);
}

/* Not before what they stand for is there: data | L2. */
static void test_readers_see_the_old_one(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, CLUSTER, 1);
	settle(f);
	uint64_t bytes = packed_at(f, 0).bytes;
	expect_bytes(f, 0, CLUSTER, 1); /* inflated, and kept */
	f->m->hold_bytes = bytes;
	start(f, 0, COW_OP_WRITE, 0, 0, CLUSTER, 2);
	expect_at(f, 0, "pack: written", NULL);
	expect_bytes(f, 0, CLUSTER, 1);
	memory_let_go(f->m, bytes);
	expect_result(f, 0, 0);
	expect_bytes(f, 0, CLUSTER, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_one_behind_the_other, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_parts_are_not_packed, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_noise_is_not_packed, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_overwritten, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_a_failed_write, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_one_at_a_time, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_parts_wait, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_readers_see_the_old_one, setup,
						request_teardown),
	};
	return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
