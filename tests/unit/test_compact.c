/* SPDX-License-Identifier: MIT */
/* Compacting: what moves counts at its new place as often as it is used. Power cuts are the simulator's. */
#include "engine/base/math.h"
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

static int run_compact(struct fixture *f, const struct cow_compact_options *options,
		       struct cow_error *err)
{
	struct cow_compact_result result;
	struct cow_file *file = open_file(f);
	int ret = cow_compact(&f->m->loop, file, options, &result, err);
	f->m->host.ops->close(file);
	return ret;
}

static void compact(struct fixture *f)
{
	const struct cow_compact_options options = { 0 };
	struct cow_error err = { 0 };
	uint64_t before = memory_size(f->m);
	close_image(f);
	if (run_compact(f, &options, &err))
		fail_msg("compact: %s", err.text);
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

/* ---- a host with little room ---- */

#define NR_PLAIN 96u
#define NR_GONE 64u

/* More to move than there is room for beside. */
static void prepare_plain(struct fixture *f)
{
	for (unsigned i = 0; i < NR_PLAIN; i += 16)
		write_bytes(f, (uint64_t)i * CLUSTER, 16 * CLUSTER, 1 + (int)i);
	settle(f);
	start(f, 0, COW_OP_DISCARD, 0, 0, NR_GONE * CLUSTER, 0);
	expect_result(f, 0, 0);
	settle(f);
}

static void expect_plain(struct fixture *f)
{
	for (unsigned i = 0; i < NR_PLAIN; i += 16)
		expect_bytes(f, (uint64_t)i * CLUSTER, 16 * CLUSTER, i < NR_GONE ? 0 : 1 + (int)i);
}

/* In smaller steps, each for the room that there is. */
static void test_little_room(void **state)
{
	struct fixture *f = *state;
	prepare_plain(f);
	close_image(f);
	f->m->limit = f->m->file->now.used_bytes + 8 * CLUSTER;
	open_image(f);
	compact(f);
	assert_true(memory_size(f->m) <= (NR_PLAIN - NR_GONE + 16) * CLUSTER);
	expect_plain(f);
}

static int stop_later(void *ctx, struct cow_loop *loop, uint64_t bytes, uint64_t total_bytes)
{
	uint64_t *left = ctx;
	(void)loop;
	(void)total_bytes;
	*left -= cow_min(*left, bytes);
	return *left ? 0 : -ECANCELED;
}

/* What a step has written when it is given up takes no room. */
static void test_given_up(void **state)
{
	struct fixture *f = *state;
	uint64_t left = 16 * CLUSTER;
	const struct cow_compact_options options = { .before = stop_later, .ctx = &left };
	struct cow_error err = { 0 };
	prepare_plain(f);
	close_image(f);
	uint64_t size = memory_size(f->m), used = f->m->file->now.used_bytes;
	assert_int_equal(run_compact(f, &options, &err), -ECANCELED);
	assert_int_equal(memory_size(f->m), size);
	assert_int_equal(f->m->file->now.used_bytes, used);
	expect_clean(f);
	open_image(f);
	expect_plain(f);
}

/* Header, refcount table and block, L1 and L2 table, and the data: nothing is free. */
static void test_nothing_left(void **state)
{
	struct fixture *f = *state;
	prepare_plain(f);
	compact(f);
	assert_int_equal(memory_size(f->m), (5 + NR_PLAIN - NR_GONE) * CLUSTER);
	expect_plain(f);
}

/* ---- an L1 table for more than the disk has ---- */

#define HUGE_BYTES (8ull << 40)
#define FAR_OFF (1ull << 40)

static uint32_t compact_smaller(struct fixture *f)
{
	uint8_t be[8];
	cow_store64_be(be, SIZE_BYTES);
	close_image(f);
	memory_put(f->m, offsetof(struct qcow2_header_be, size), be, sizeof(be));
	open_image(f);
	compact(f);
	return cow_load32_be(f->m->bytes + offsetof(struct qcow2_header_be, l1_size));
}

static void make_huge(struct fixture *f)
{
	close_image(f);
	create_image(f, CLUSTER, HUGE_BYTES);
	open_image(f);
	write_bytes(f, 0, CLUSTER, 1);
}

static void test_short_l1(void **state)
{
	struct fixture *f = *state;
	make_huge(f);
	assert_int_equal(compact_smaller(f), 1);
	expect_bytes(f, 0, CLUSTER, 1);
}

/* What lies behind the disk's end is not given up: the table ends with it. */
static void test_short_l1_with_more(void **state)
{
	struct fixture *f = *state;
	make_huge(f);
	write_bytes(f, FAR_OFF, CLUSTER, 2);
	assert_int_equal(compact_smaller(f), (FAR_OFF >> 29) + 1);
	expect_bytes(f, 0, CLUSTER, 1);
}

static int64_t refuse_holes(void *ctx, const struct cow_io *io)
{
	(void)ctx;
	return io->kind == COW_IO_PUNCH ? -ENOSPC : 0;
}

/* Without holes it is as short. */
static void test_no_holes(void **state)
{
	struct fixture *f = *state;
	prepare_plain(f);
	close_image(f);
	f->m->fault = refuse_holes;
	open_image(f);
	compact(f);
	f->m->fault = NULL;
	expect_plain(f);
}

/* ---- compressing ---- */

#define NR_TEXT 24u

static void fill_noise(uint8_t *buf, uint64_t bytes, uint32_t seed)
{
	for (uint64_t i = 0; i < bytes; i++) {
		seed = seed * 1103515245u + 12345;
		buf[i] = (uint8_t)(seed >> 16);
	}
}

/* A cluster of noise, which does not become shorter, one of zeros, the others all of one byte. */
static void prepare_text(struct fixture *f)
{
	for (unsigned i = 0; i < NR_TEXT; i++)
		write_bytes(f, (uint64_t)i * CLUSTER, CLUSTER, i == 5 ? 0 : 1 + (int)i);
	fill_noise(f->bufs[0], CLUSTER, 1);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_WRITE, 0, 3 * CLUSTER, CLUSTER, f->bufs[0]),
			 0);
	settle(f);
}

static void expect_text(struct fixture *f)
{
	for (unsigned i = 0; i < NR_TEXT; i++)
		if (i != 3)
			expect_bytes(f, (uint64_t)i * CLUSTER, CLUSTER, i == 5 ? 0 : 1 + (int)i);
	fill_noise(f->bufs[1], CLUSTER, 1);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_READ, 0, 3 * CLUSTER, CLUSTER, f->read), 0);
	assert_memory_equal(f->read, f->bufs[1], CLUSTER);
}

static void deflate(struct fixture *f)
{
	const struct cow_compact_options options = { .compress = true };
	struct cow_error err = { 0 };
	close_image(f);
	if (run_compact(f, &options, &err))
		fail_msg("compact: %s", err.text);
	expect_clean(f);
	open_image(f);
}

/* The header, the tables, noise, and one cluster for all the rest. */
static void test_deflate(void **state)
{
	struct fixture *f = *state;
	prepare_text(f);
	deflate(f);
	for (unsigned i = 0; i < NR_TEXT; i++) {
		uint64_t entry = entry_of(f, (uint64_t)i * CLUSTER);
		assert_int_equal(!(entry & QCOW2_COMPRESSED), i == 3 || i == 5);
	}
	assert_true(memory_size(f->m) <= 10 * CLUSTER);
	expect_text(f);
}

static void test_deflate_shared(void **state)
{
	struct fixture *f = *state;
	prepare_text(f);
	take_snapshot(f);
	write_bytes(f, 0, CLUSTER, 99); /* so there are two tables that lead to the rest */
	settle(f);
	deflate(f);
	uint64_t entry = entry_of(f, CLUSTER);
	assert_true(entry & QCOW2_COMPRESSED);
	/* two paths to each but the first, which has two versions; noise and zeros are not there */
	assert_int_equal(refcount_at(f, cow_compressed_decode(entry, 16).off), 2 * (NR_TEXT - 2));
	expect_bytes(f, 0, CLUSTER, 99);
	expect_bytes(f, CLUSTER, CLUSTER, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_packed, request_setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_packed_and_shared, request_setup,
						request_teardown),
		cmocka_unit_test_setup_teardown(test_little_room, request_setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_given_up, request_setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_no_holes, request_setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_nothing_left, request_setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_short_l1, request_setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_short_l1_with_more, request_setup,
						request_teardown),
		cmocka_unit_test_setup_teardown(test_deflate, request_setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_deflate_shared, request_setup,
						request_teardown),
	};
	return cmocka_run_group_tests_name("compact", tests, NULL, NULL);
}
