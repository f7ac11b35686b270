/* SPDX-License-Identifier: MIT */
/* Compacting: what moves counts at its new place as often as it is used. Power cuts are the simulator's. */
#include "engine/edit/compact.h"
#include "tests/unit/request_fixture.h"

#define PLAIN_BYTES (16u * CLUSTER)
#define PACKED_OFF (64u * CLUSTER)
#define NR_PACKED 8u

static void open_with(struct fixture *f, bool compress)
{
	close_image(f);
	f->options.compress = compress;
	open_image(f);
}

static void compact(struct fixture *f)
{
	const struct cow_compact_options options = { 0 };
	struct cow_compact_result result;
	struct cow_error err = { 0 };
	uint64_t before = memory_size(f->m);
	close_image(f);
	struct cow_file *file = open_file(f);
	if (cow_compact(&f->m->loop, file, &options, &result, &err))
		fail_msg("compact: %s", err.text);
	f->m->host.ops->close(file);
	assert_true(memory_size(f->m) < before);
	expect_clean(f);
	open_image(f);
}

static struct cow_compressed packed_at(const struct fixture *f, unsigned i)
{
	uint64_t entry = entry_of(f, PACKED_OFF + (uint64_t)i * CLUSTER);
	assert_true(entry & QCOW2_COMPRESSED);
	return cow_compressed_decode(entry, 16);
}

static void expect_content(struct fixture *f)
{
	expect_bytes(f, 0, PLAIN_BYTES, 0);
	for (unsigned i = 0; i < NR_PACKED; i++)
		expect_bytes(f, PACKED_OFF + (uint64_t)i * CLUSTER, CLUSTER, (int)i + 2);
}

/* Compressed clusters behind others that are free now: they have to move. */
static void prepare(struct fixture *f)
{
	write_bytes(f, 0, PLAIN_BYTES, 1);
	settle(f);
	open_with(f, true);
	for (unsigned i = 0; i < NR_PACKED; i++)
		write_bytes(f, PACKED_OFF + (uint64_t)i * CLUSTER, CLUSTER, (int)i + 2);
	start(f, 0, COW_OP_DISCARD, 0, 0, PLAIN_BYTES, 0);
	expect_result(f, 0, 0);
	settle(f);
}

static void test_packed(void **state)
{
	struct fixture *f = *state;
	prepare(f);
	uint64_t was = packed_at(f, 0).off;
	compact(f);
	assert_true(packed_at(f, 0).off < was);
	assert_int_equal(refcount_at(f, packed_at(f, 0).off), NR_PACKED);
	expect_content(f);
}

/* Each of them twice. */
static void test_packed_and_shared(void **state)
{
	struct fixture *f = *state;
	prepare(f);
	take_snapshot(f);
	uint64_t was = packed_at(f, 0).off;
	compact(f);
	assert_true(packed_at(f, 0).off < was);
	assert_int_equal(refcount_at(f, packed_at(f, 0).off), 2 * NR_PACKED);
	expect_content(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_packed, request_setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_packed_and_shared, request_setup,
						request_teardown),
	};
	return cmocka_run_group_tests_name("compact", tests, NULL, NULL);
}
