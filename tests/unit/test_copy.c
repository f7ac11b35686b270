/* SPDX-License-Identifier: MIT */
/*
 * Copy on write of clusters that a snapshot shares: what is around the request's bytes comes along,
 * the old cluster stays as it is, one request at a time.
 */
#include "tests/unit/request_fixture.h"

#define CLAIMED "a request that changes the range"

static int setup(void **state)
{
	request_setup(state);
	struct fixture *f = *state;
	write_bytes(f, 0, 4 * CLUSTER, 1);
	take_snapshot(f);
	return 0;
}

static void test_rest_comes_along(void **state)
{
	struct fixture *f = *state;
	uint64_t old = host_of(f, CLUSTER);
	assert_int_equal(refcount_at(f, old), 2);
	write_bytes(f, CLUSTER + 1024, 512, 2);
	expect_bytes(f, CLUSTER, 1024, 1);
	expect_bytes(f, CLUSTER + 1024, 512, 2);
	expect_bytes(f, CLUSTER + 1536, CLUSTER - 1536, 1);
	settle(f);
	uint64_t new = entry_of(f, CLUSTER);
	assert_true(new &QCOW2_COPIED);
	assert_int_not_equal(new &QCOW2_OFFSET_MASK, old);
	assert_int_equal(refcount_at(f, new &QCOW2_OFFSET_MASK), 1);
	assert_int_equal(refcount_at(f, old), 1);
	expect_file(f, old, CLUSTER, 1);
	/* its neighbours are the snapshot's too */
	assert_false(entry_of(f, 0) & QCOW2_COPIED);
	assert_int_equal(refcount_at(f, host_of(f, 0)), 2);
}

/* At either end of a cluster, and over several. */
static void test_edges(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 512, 2);
	expect_bytes(f, 0, 512, 2);
	expect_bytes(f, 512, CLUSTER - 512, 1);
	write_bytes(f, 2 * CLUSTER - 512, CLUSTER + 1024, 3);
	expect_bytes(f, CLUSTER, CLUSTER - 512, 1);
	expect_bytes(f, 2 * CLUSTER - 512, CLUSTER + 1024, 3);
	expect_bytes(f, 3 * CLUSTER + 512, CLUSTER - 512, 1);
}

static unsigned reads_of(const struct fixture *f, uint64_t host, unsigned from)
{
	unsigned nr = 0;
	for (unsigned i = from; i < f->m->nr_trace; i++)
		nr += f->m->trace[i].kind == COW_IO_READ && f->m->trace[i].offset >= host &&
		      f->m->trace[i].offset < host + CLUSTER;
	return nr;
}

/* Who overwrites all of it needs nothing of the old one. */
static void test_whole_clusters_are_not_read(void **state)
{
	struct fixture *f = *state;
	uint64_t old = host_of(f, CLUSTER);
	unsigned from = f->m->nr_trace;
	write_bytes(f, CLUSTER, CLUSTER, 2);
	assert_int_equal(reads_of(f, old, from), 0);
	expect_bytes(f, CLUSTER, CLUSTER, 2);
	old = host_of(f, 2 * CLUSTER);
	write_bytes(f, 2 * CLUSTER, CLUSTER - 512, 2);
	assert_int_equal(reads_of(f, old, from), 1);
}

/* data | L2: also where the pass has no refcounts to write. */
static void test_data_before_entry(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 512, 2); /* a table of our own, a reservation */
	settle(f);
	unsigned from = f->m->nr_trace;
	write_bytes(f, CLUSTER, 512, 2);
	flush(f);
	uint64_t data = host_of(f, CLUSTER);
	bool written = false, synced = false, published = false;
	for (unsigned i = from; i < f->m->nr_trace && !published; i++) {
		const struct memory_event *e = &f->m->trace[i];
		if (e->kind == COW_IO_SYNC)
			synced = written;
		else if (e->kind == COW_IO_WRITE && e->offset == data)
			written = true;
		else if (e->kind == COW_IO_WRITE)
			published = true;
	}
	assert_true(written && synced && published);
}

static void test_one_at_a_time(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 512, 2);
	f->m->hold_bytes = CLUSTER; /* what is written: all of it */
	start(f, 0, COW_OP_WRITE, 0, CLUSTER, 512, 3);
	start(f, 1, COW_OP_WRITE, 0, CLUSTER + 512, 512, 4);
	start(f, 2, COW_OP_WRITE, 0, 512, 512, 5); /* ours already */
	expect_result(f, 2, 0);
	expect_at(f, 0, "copy: written", NULL);
	expect_at(f, 1, "copy: claim", CLAIMED);
	memory_let_go(f->m, CLUSTER);
	expect_result(f, 0, 0);
	expect_result(f, 1, 0);
	expect_bytes(f, CLUSTER, 512, 3);
	expect_bytes(f, CLUSTER + 512, 512, 4);
	expect_bytes(f, CLUSTER + 1024, CLUSTER - 1024, 1);
}

/* Before the claim is taken, and between its steps: nobody sees half of it. */
static void test_readers_see_the_old_one(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 512, 2);
	f->m->hold_bytes = CLUSTER;
	start(f, 0, COW_OP_WRITE, 0, CLUSTER, 512, 3);
	expect_at(f, 0, "copy: written", NULL);
	expect_bytes(f, CLUSTER, 4096, 1);
	f->m->hold_bytes = 0;
	memory_let_go(f->m, CLUSTER);
	expect_result(f, 0, 0);
	expect_bytes(f, CLUSTER, 512, 3);
}

/* The mapping is as it was, and the new cluster comes back: request_teardown() finds no leak. */
static void test_a_failed_write(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 512, 2);
	settle(f);
	uint64_t old = entry_of(f, CLUSTER);
	f->m->fail_kind = COW_IO_WRITE;
	f->m->fail_error = -EIO;
	start(f, 0, COW_OP_WRITE, 0, CLUSTER, 512, 3);
	expect_result(f, 0, -EIO);
	expect_bytes(f, CLUSTER, CLUSTER, 1);
	settle(f);
	assert_int_equal(entry_of(f, CLUSTER), old);
	write_bytes(f, CLUSTER, 512, 4);
	expect_bytes(f, CLUSTER, 512, 4);
}

static void test_a_failed_read(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 512, 2);
	f->m->fail_kind = COW_IO_READ;
	f->m->fail_error = -EIO;
	start(f, 0, COW_OP_WRITE, 0, CLUSTER, 512, 3);
	expect_result(f, 0, -EIO);
	expect_bytes(f, CLUSTER, CLUSTER, 1);
}

/* Larger than the bounce buffer: in chunks around the request's bytes. */
static void test_large_clusters(void **state)
{
	struct fixture *f = *state;
	const uint64_t large = 2u << 20, half = large / 2;
	close_image(f);
	create_image(f, (uint32_t)large, SIZE_BYTES);
	open_image(f);
	write_bytes(f, 0, half, 1);
	write_bytes(f, half, half, 2);
	take_snapshot(f);
	write_bytes(f, half - 512, 1024, 3);
	expect_bytes(f, 0, half - 512, 1);
	expect_bytes(f, half - 512, 1024, 3);
	expect_bytes(f, half + 512, half - 512, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_rest_comes_along, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_edges, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_whole_clusters_are_not_read, setup,
						request_teardown),
		cmocka_unit_test_setup_teardown(test_data_before_entry, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_one_at_a_time, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_readers_see_the_old_one, setup,
						request_teardown),
		cmocka_unit_test_setup_teardown(test_a_failed_write, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_a_failed_read, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_large_clusters, setup, request_teardown),
	};
	return cmocka_run_group_tests_name("copy", tests, NULL, NULL);
}
