/* SPDX-License-Identifier: MIT */
/* An external data file: each cluster has its place there, and what is discarded is punched there. */
#include "tests/unit/request_fixture.h"

#define CLAIMED "a request that changes the range"

static struct memory_host *data;

/* The second file of the host. */
static int open_either(struct cow_host *host, const char *path, unsigned flags,
		       struct cow_file **out, struct cow_error *err)
{
	bool outside = !strcmp(path, "/data");
	int ret = data->host.ops->open(outside ? &data->host : host, path, flags, out, err);
	if (!ret)
		(*out)->ino += outside;
	return ret;
}

static int setup(void **state)
{
	static struct cow_host_ops ops;
	request_setup(state);
	struct fixture *f = *state;
	struct cow_create_options create = {
		.size_bytes = SIZE_BYTES, .has_size = true, .overwrite = true, .data_file = "/data"
	};
	struct cow_error err = { 0 };
	close_image(f);
	data = memory_host_new();
	ops = *f->m->host.ops;
	ops.open = open_either;
	f->m->host.ops = &ops;
	if (cow_create(&f->m->host, &f->m->loop, "/disk", &create, &err))
		fail_msg("create: %s", err.text);
	f->options.data_file = "/data";
	open_image(f);
	write_bytes(f, 0, 4 * CLUSTER, 1);
	settle(f);
	return 0;
}

static int teardown(void **state)
{
	int ret = request_teardown(state);
	memory_host_free(data);
	return ret;
}

static void expect_data(uint64_t off, uint64_t length, int value)
{
	for (uint64_t i = 0; i < length; i++)
		assert_int_equal(data->bytes[off + i], value);
}

static void test_discard(void **state)
{
	struct fixture *f = *state;
	expect_data(0, 4 * CLUSTER, 1);
	start(f, 0, COW_OP_DISCARD, 0, CLUSTER, 2 * CLUSTER, 0);
	expect_result(f, 0, 0);
	expect_bytes(f, 0, CLUSTER, 1);
	expect_bytes(f, CLUSTER, 2 * CLUSTER, 0);
	expect_data(0, CLUSTER, 1);
	expect_data(CLUSTER, 2 * CLUSTER, 0);
	expect_data(3 * CLUSTER, CLUSTER, 1);
}

/*
 * Somebody has lost a COPIED flag: a write copies the cluster onto itself, and would bring back
 * what is punched meanwhile. Zeros wait for it.
 */
static void test_waits_for_a_copy(void **state)
{
	struct fixture *f = *state;
	close_image(f);
	struct cow_header h = header_of(f);
	uint64_t table = cow_load64_be(f->m->bytes + h.l1_off) & QCOW2_OFFSET_MASK;
	cow_store64_be(f->m->bytes + table + 8, entry_of(f, CLUSTER) & ~QCOW2_COPIED);
	open_image(f);
	f->m->hold_bytes = CLUSTER; /* the read of all that is around those bytes */
	start(f, 0, COW_OP_WRITE, 0, CLUSTER + 4096, 512, 2);
	expect_at(f, 0, "copy: read head", NULL);
	start(f, 1, COW_OP_WRITE_ZEROES, 0, CLUSTER, CLUSTER, 0);
	expect_at(f, 1, "zero: map", CLAIMED);
	memory_let_go(f->m, CLUSTER);
	expect_result(f, 0, 0);
	expect_result(f, 1, 0);
	expect_bytes(f, CLUSTER, CLUSTER, 0);
	expect_data(CLUSTER, CLUSTER, 0);
	expect_bytes(f, 2 * CLUSTER, CLUSTER, 1);
}

/*
 * A write that is overtaken by zeros which the mapping takes, since the host is to keep its space: its
 * bytes do not come back when the cluster is written to again, in the place that it always has.
 */
static void test_overtaken(void **state)
{
	struct fixture *f = *state;
	overtake_write(f);
	expect_bytes(f, CLUSTER, 8192 + 1024, 0);
	expect_bytes(f, CLUSTER + 8192 + 1024, 512, 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_discard, setup, teardown),
		cmocka_unit_test_setup_teardown(test_waits_for_a_copy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_overtaken, setup, teardown),
	};
	return cmocka_run_group_tests_name("data_file", tests, NULL, NULL);
}
