/* SPDX-License-Identifier: MIT */
/*
 * DISCARD and WRITE_ZEROES: whole clusters by the mapping, parts by writing or not at all; what is
 * freed comes back, what a snapshot has too stays.
 */
#include "tests/unit/request_fixture.h"

static int setup(void **state)
{
	request_setup(state);
	write_bytes(*state, 0, 4 * CLUSTER, 1);
	settle(*state);
	return 0;
}

static void zero(struct fixture *f, enum cow_op_kind kind, unsigned flags, uint64_t off,
		 uint64_t length)
{
	start(f, 0, kind, flags, off, length, 0);
	expect_result(f, 0, 0);
}

static void expect_freed(struct fixture *f, enum cow_op_kind kind)
{
	uint64_t host = host_of(f, CLUSTER), kept = host_of(f, 3 * CLUSTER);
	zero(f, kind, 0, CLUSTER, 2 * CLUSTER);
	expect_bytes(f, CLUSTER, 2 * CLUSTER, 0);
	expect_bytes(f, 0, CLUSTER, 1);
	expect_bytes(f, 3 * CLUSTER, CLUSTER, 1);
	settle(f);
	assert_int_equal(entry_of(f, CLUSTER), 0);
	assert_int_equal(refcount_at(f, host), 0);
	expect_file(f, host, CLUSTER, 0);
	assert_int_equal(host_of(f, 3 * CLUSTER), kept);
	assert_int_equal(refcount_at(f, kept), 1);
}

static void test_discard(void **state)
{
	expect_freed(*state, COW_OP_DISCARD);
}

static void test_write_zeroes(void **state)
{
	expect_freed(*state, COW_OP_WRITE_ZEROES);
}

/* Parts of clusters: a discard leaves them alone, zeros are written into them. */
static void test_parts(void **state)
{
	struct fixture *f = *state;
	uint64_t first = entry_of(f, 0), last = entry_of(f, 2 * CLUSTER);
	zero(f, COW_OP_DISCARD, 0, 512, 2 * CLUSTER);
	expect_bytes(f, 0, CLUSTER, 1);
	expect_bytes(f, CLUSTER, CLUSTER, 0);
	expect_bytes(f, 2 * CLUSTER, CLUSTER, 1);
	zero(f, COW_OP_WRITE_ZEROES, 0, 512, 2 * CLUSTER);
	expect_bytes(f, 0, 512, 1);
	expect_bytes(f, 512, 2 * CLUSTER, 0);
	expect_bytes(f, 2 * CLUSTER + 512, CLUSTER - 512, 1);
	settle(f);
	assert_int_equal(entry_of(f, 0), first);
	assert_int_equal(entry_of(f, 2 * CLUSTER), last);
}

static void test_clusters_are_kept(void **state)
{
	struct fixture *f = *state;
	uint64_t host = host_of(f, CLUSTER);
	zero(f, COW_OP_WRITE_ZEROES, COW_OP_NOUNMAP, CLUSTER, CLUSTER);
	expect_bytes(f, CLUSTER, CLUSTER, 0);
	settle(f);
	assert_int_equal(entry_of(f, CLUSTER), host | QCOW2_COPIED | QCOW2_ZERO);
	assert_int_equal(refcount_at(f, host), 1);
	/* a part of it written again: the rest must not be the old bytes */
	write_bytes(f, CLUSTER + 1024, 512, 2);
	settle(f);
	assert_int_equal(host_of(f, CLUSTER), host);
	expect_bytes(f, CLUSTER, 1024, 0);
	expect_bytes(f, CLUSTER + 1024, 512, 2);
	expect_bytes(f, CLUSTER + 1536, CLUSTER - 1536, 0);
}

/*
 * A write in place that is overtaken by zeros: whoever fills the cluster anew waits for it. Else its
 * bytes would come back behind zeros that somebody has read.
 */
static void overtaken(struct fixture *f)
{
	overtake_write(f);
	expect_bytes(f, CLUSTER + 8192, 1024, 0);
	expect_bytes(f, CLUSTER + 8192 + 1024, 512, 6);
	f->m->hold_bytes = 0;
}

static void test_overtaken(void **state)
{
	overtaken(*state);
}

/* A subcluster that is zeroed keeps its place. */
static void test_overtaken_in_a_subcluster(void **state)
{
	struct fixture *f = *state;
	struct cow_create_options create = {
		.size_bytes = SIZE_BYTES, .has_size = true, .overwrite = true, .extended_l2 = true
	};
	struct cow_error err = { 0 };
	close_image(f);
	if (cow_create(&f->m->host, &f->m->loop, "/disk", &create, &err))
		fail_msg("create: %s", err.text);
	open_image(f);
	write_bytes(f, 0, 4 * CLUSTER, 1);
	settle(f);
	overtaken(f);
	f->m->hold_bytes = 512;
	start(f, 0, COW_OP_WRITE, 0, 2 * CLUSTER + 4096, 512, 5);
	start(f, 1, COW_OP_WRITE_ZEROES, 0, 2 * CLUSTER + 4096, 2048, 0);
	expect_result(f, 1, 0);
	start(f, 2, COW_OP_WRITE, 0, 2 * CLUSTER + 4096 + 1024, 1024, 6);
	expect_at(f, 2, "copy: quiet", "requests of an old epoch");
	memory_let_go(f->m, 512);
	expect_result(f, 0, 0);
	expect_result(f, 2, 0);
	expect_bytes(f, 2 * CLUSTER + 4096, 1024, 0);
}

static void test_shared_stays(void **state)
{
	struct fixture *f = *state;
	take_snapshot(f);
	uint64_t host = host_of(f, CLUSTER);
	zero(f, COW_OP_DISCARD, 0, CLUSTER, CLUSTER);
	expect_bytes(f, CLUSTER, CLUSTER, 0);
	settle(f);
	assert_int_equal(refcount_at(f, host), 1);
	expect_file(f, host, CLUSTER, 1);
}

/* What a copy under way publishes comes before the discard, or after it, not in between. */
static void test_waits_for_a_copy(void **state)
{
	struct fixture *f = *state;
	take_snapshot(f);
	write_bytes(f, 0, 512, 2);
	f->m->hold_bytes = CLUSTER;
	start(f, 0, COW_OP_WRITE, 0, CLUSTER, 512, 3);
	start(f, 1, COW_OP_DISCARD, 0, CLUSTER, CLUSTER, 0);
	start(f, 2, COW_OP_DISCARD, 0, 2 * CLUSTER, CLUSTER, 0); /* not that one's business */
	expect_result(f, 2, 0);
	expect_at(f, 0, "copy: written", NULL);
	expect_at(f, 1, "zero: map", "a request that changes the range");
	memory_let_go(f->m, CLUSTER);
	expect_result(f, 0, 0);
	expect_result(f, 1, 0);
	expect_bytes(f, CLUSTER, CLUSTER, 0);
}

/* The disk's last cluster may be short: it is whole all the same. */
static void test_all_of_it(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, (16u << 20) - CLUSTER, CLUSTER, 4);
	zero(f, COW_OP_DISCARD, 0, 0, 16u << 20);
	for (uint64_t off = 0; off < 16u << 20; off += MAX_BYTES)
		expect_bytes(f, off, MAX_BYTES, 0);
	settle(f);
	for (uint64_t off = 0; off < 16u << 20; off += CLUSTER)
		assert_int_equal(entry_of(f, off), 0);
}

/* Nothing is freed twice, nor anything that is not there. */
static void test_again(void **state)
{
	struct fixture *f = *state;
	uint64_t host = host_of(f, CLUSTER);
	zero(f, COW_OP_DISCARD, 0, CLUSTER, CLUSTER);
	zero(f, COW_OP_DISCARD, 0, CLUSTER, CLUSTER);
	zero(f, COW_OP_WRITE_ZEROES, 0, CLUSTER, CLUSTER);
	settle(f);
	assert_int_equal(refcount_at(f, host), 0);
	assert_null(cow_image_failure(f->image));
	assert_int_equal(entry_of(f, CLUSTER), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_discard, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_write_zeroes, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_parts, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_clusters_are_kept, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_overtaken, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_overtaken_in_a_subcluster, setup,
						request_teardown),
		cmocka_unit_test_setup_teardown(test_shared_stays, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_waits_for_a_copy, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_all_of_it, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_again, setup, request_teardown),
	};
	return cmocka_run_group_tests_name("zero", tests, NULL, NULL);
}
