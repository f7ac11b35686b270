/* SPDX-License-Identifier: MIT */
/*
 * What check finds, and what repair does and leaves alone, on an image of which every byte is
 * known.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/base/be.h"
#include "engine/check/check.h"
#include "engine/format/format.h"
#include "engine/format/map.h"
#include "tests/memory/memory_host.h"
#include "tests/unit/tiny_image.h"

struct fixture {
	struct tiny_image t;
	struct memory_host disk;
	struct cow_check_result result;
	struct cow_error err;
	char findings[1 << 16];
	unsigned changes;
};

static void note_finding(void *ctx, const char *text)
{
	struct fixture *f = ctx;
	size_t used = strlen(f->findings);
	snprintf(f->findings + used, sizeof(f->findings) - used, "%s\n", text);
}

static void note_change(void *ctx, const struct cow_io *io)
{
	if (io->kind != COW_IO_SYNC)
		++*(unsigned *)ctx;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	tiny_image_build(&f->t, 4);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	memory_host_fini(&f->disk);
	free(f);
	return 0;
}

/* After the test has changed f->t. */
static int check(struct fixture *f, enum cow_repair repair)
{
	struct cow_check_options options = { .repair = repair, .finding = note_finding, .ctx = f };
	if (!f->disk.bytes)
		assert_int_equal(memory_host_init(&f->disk, f->t.bytes, f->t.size, TINY_MAX_BYTES),
				 0);
	f->disk.changed = note_change;
	f->disk.ctx = &f->changes;
	f->changes = 0;
	f->findings[0] = '\0';
	f->err = (struct cow_error){ 0 };
	int ret = cow_check_file(&f->disk.loop, &f->disk.self.file, &options, &f->result, &f->err);
	if (repair == COW_REPAIR_NONE)
		assert_int_equal(f->changes, 0);
	return ret;
}

static void assert_finds(const struct fixture *f, const char *text)
{
	if (!strstr(f->findings, text))
		fail_msg("wanted '%s', found:\n%s", text, f->findings);
}

static void set_refcount(struct fixture *f, uint64_t off, uint64_t value)
{
	uint64_t idx, block = tiny_refblock_of(&f->t, off / TINY_CLUSTER, &idx);
	cow_refcount_set(f->t.bytes + block, f->t.order, idx, value);
}

static uint64_t refcount_on_disk(const struct fixture *f, uint64_t off)
{
	uint64_t idx, block = tiny_refblock_of(&f->t, off / TINY_CLUSTER, &idx);
	return cow_refcount_get(f->disk.bytes + block, f->t.order, idx);
}

/* ---- counting ---- */

static void clean(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(check(f, COW_REPAIR_NONE), 0);
	assert_string_equal(f->findings, "");
	assert_int_equal(f->result.total_clusters, TINY_GUEST_CLUSTERS);
	assert_int_equal(f->result.image_end_offset, f->t.size);
	/* guest cluster 1 does not follow guest cluster 0 */
	assert_int_equal(f->result.fragmented_clusters, 1);
}

/* Both L1 tables lead to one L2 table: what it maps has two references. */
static void shared_l2_counts_twice(void **state)
{
	struct fixture *f = *state;
	cow_store64_be(f->t.bytes + f->t.l1, f->t.snapshot_l2);
	set_refcount(f, f->t.l2, 0);
	set_refcount(f, f->t.snapshot_l2, 2);
	set_refcount(f, f->t.data, 2);
	set_refcount(f, f->t.data + TINY_GUEST_CLUSTERS * TINY_CLUSTER, 0);
	assert_int_equal(check(f, COW_REPAIR_NONE), 0);
	assert_string_equal(f->findings, "");
}

/*
 * Two compressed clusters whose sectors touch the same host cluster, and one that reaches into the
 * next.
 */
static void compressed_sectors_count(void **state)
{
	struct fixture *f = *state;
	uint64_t at = f->t.data;
	cow_store64_be(f->t.bytes + f->t.l2 + 8, cow_compressed_encode(at + 10, 100, 9));
	cow_store64_be(f->t.bytes + f->t.l2 + 16, cow_compressed_encode(at + 500, 100, 9));
	memset(f->t.bytes + f->t.snapshot_l2, 0, TINY_CLUSTER);
	assert_int_equal(check(f, COW_REPAIR_NONE), 0);
	assert_int_equal(f->result.compressed_clusters, 2);
	char text[80];
	snprintf(text, sizeof(text), "ERROR cluster %u refcount=1 reference=2",
		 (unsigned)(at / TINY_CLUSTER));
	assert_finds(f, text);
	snprintf(text, sizeof(text), "Leaked cluster %u refcount=2 reference=1",
		 (unsigned)(at / TINY_CLUSTER + 1));
	assert_finds(f, text);
}

static void end_of_a_short_file(void **state)
{
	struct fixture *f = *state;
	f->t.size -= TINY_CLUSTER - 1; /* the last cluster is cut short: lawful */
	assert_int_equal(check(f, COW_REPAIR_NONE), 0);
	assert_string_equal(f->findings, "");
}

static void behind_the_end(void **state)
{
	struct fixture *f = *state;
	f->t.size -= TINY_CLUSTER;
	assert_int_equal(check(f, COW_REPAIR_NONE), 0);
	assert_finds(f, "lies past the end of the file");
}

/* ---- repairing ---- */

static void leaks_only(void **state)
{
	struct fixture *f = *state;
	set_refcount(f, f->t.data, 7);
	assert_int_equal(check(f, COW_REPAIR_LEAKS), 0);
	assert_int_equal(f->result.leaks_fixed, 1);
	assert_int_equal(f->result.leaks, 0);
	assert_int_equal(refcount_on_disk(f, f->t.data), 1);
}

/* --repair leaks does not touch what is worse than a leak. */
static void leaks_only_leaves_errors(void **state)
{
	struct fixture *f = *state;
	set_refcount(f, f->t.data, 7);
	set_refcount(f, f->t.data + TINY_CLUSTER, 1);
	assert_int_equal(check(f, COW_REPAIR_LEAKS), 0);
	assert_int_equal(f->result.leaks, 0);
	assert_true(f->result.corruptions > 0);
	assert_int_equal(refcount_on_disk(f, f->t.data + TINY_CLUSTER), 1);
}

/* Where a pointer is broken, what seems leaked may be what it led to. */
static void nothing_is_freed_in_doubt(void **state)
{
	struct fixture *f = *state;
	cow_store64_be(f->t.bytes + f->t.snapshot_l1, 1ull << 40);
	assert_int_equal(check(f, COW_REPAIR_ALL), 0);
	assert_true(f->result.corruptions > 0 && f->result.leaks > 0);
	assert_int_equal(refcount_on_disk(f, f->t.data), 1);
	assert_int_equal(refcount_on_disk(f, f->t.data + TINY_CLUSTER), 2);
}

/*
 * The L1 entry leads into data. That is no L2 table, whatever it looks like: repair must not touch
 * it.
 */
static void data_is_not_repaired(void **state)
{
	struct fixture *f = *state;
	uint64_t at = f->t.data + 5 * TINY_CLUSTER;
	for (unsigned i = 0; i < TINY_CLUSTER; i += 8)
		cow_store64_be(f->t.bytes + at + i, 0xfedcba9876543210 + i);
	cow_store64_be(f->t.bytes + f->t.l1, at | QCOW2_COPIED);
	assert_int_equal(check(f, COW_REPAIR_ALL), 0);
	assert_true(f->result.corruptions > 0);
	assert_memory_equal(f->disk.bytes + at, f->t.bytes + at, TINY_CLUSTER);
}

static void flags_of_compressed_clusters(void **state)
{
	struct fixture *f = *state;
	uint64_t own = f->t.data + TINY_GUEST_CLUSTERS * TINY_CLUSTER;
	cow_store64_be(f->t.bytes + f->t.l2, cow_compressed_encode(own, 300, 9) | QCOW2_COPIED);
	assert_int_equal(check(f, COW_REPAIR_ALL), 0);
	assert_finds(f, "COPIED flag of a compressed cluster");
	assert_int_equal(f->result.corruptions_fixed, 1);
	assert_int_equal(f->result.corruptions, 0);
	assert_int_equal(cow_load64_be(f->disk.bytes + f->t.l2),
			 cow_compressed_encode(own, 300, 9));
}

static void two_owners(void **state)
{
	struct fixture *f = *state;
	cow_store64_be(f->t.bytes + f->t.l2, f->t.snapshots | QCOW2_COPIED);
	assert_int_equal(check(f, COW_REPAIR_ALL), 0);
	assert_finds(f, "is used as snapshot table and as data");
	assert_true(f->result.corruptions > 0); /* nobody can know who is right */
}

static void dirty_and_corrupt_bits(void **state)
{
	struct fixture *f = *state;
	f->t.bytes[79] = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;
	assert_int_equal(check(f, COW_REPAIR_NONE), 0);
	assert_int_equal(check(f, COW_REPAIR_ALL), 0);
	assert_int_equal(f->disk.bytes[79], 0);
	assert_int_equal(f->changes, 1);
}

static void bits_stay_while_corrupt(void **state)
{
	struct fixture *f = *state;
	f->t.bytes[79] = QCOW2_INCOMPAT_DIRTY;
	cow_store64_be(f->t.bytes + f->t.l2, f->t.snapshots | QCOW2_COPIED);
	assert_int_equal(check(f, COW_REPAIR_ALL), 0);
	assert_int_equal(f->disk.bytes[79], QCOW2_INCOMPAT_DIRTY);
}

/* One bit a cluster cannot hold what a snapshot needs. */
static void refcount_that_does_not_fit(void **state)
{
	struct fixture *f = *state;
	tiny_image_build(&f->t, 1);
	f->t.bytes[offsetof(struct qcow2_header_be, refcount_order) + 3] = 0;
	assert_int_equal(check(f, COW_REPAIR_ALL), 0);
	assert_finds(f, "(does not fit)");
	assert_true(f->result.corruptions > 0);
}

/* ---- snapshots ---- */

static void bad_snapshot_is_dropped(void **state)
{
	struct fixture *f = *state;
	cow_store64_be(f->t.bytes + f->t.snapshots, f->t.snapshot_l1 + 8);
	assert_int_equal(check(f, COW_REPAIR_ALL), 0);
	assert_finds(
		f,
		"Repair: snapshot 'first' (id 1) is dropped: its L1 table is not cluster-aligned");
	assert_int_equal(f->result.corruptions + f->result.leaks, 0);
	assert_int_equal(
		cow_load32_be(f->disk.bytes + offsetof(struct qcow2_header_be, nb_snapshots)), 0);
	assert_true(tiny_image_active_reads(f->disk.bytes, memory_size(&f->disk)));
	assert_int_equal(refcount_on_disk(f, f->t.snapshot_l1), 0);
	assert_int_equal(check(f, COW_REPAIR_ALL), 0);
	assert_string_equal(f->findings, "");
}

static void lost_snapshot_table_is_told(void **state)
{
	struct fixture *f = *state;
	cow_store64_be(f->t.bytes + offsetof(struct qcow2_header_be, snapshots_offset),
		       f->t.size + TINY_CLUSTER);
	assert_int_equal(check(f, COW_REPAIR_ALL), 0);
	assert_finds(f, "Repair: 1 of 1 snapshots are dropped: the table at offset");
	assert_int_equal(f->result.corruptions + f->result.leaks, 0);
}

/* The second entry names no L1 table; the first is as good as before. */
static void good_snapshots_stay(void **state)
{
	struct fixture *f = *state;
	cow_store32_be(f->t.bytes + offsetof(struct qcow2_header_be, nb_snapshots), 2);
	memcpy(f->t.bytes + f->t.snapshots + 72, f->t.bytes + f->t.snapshots, 72);
	cow_store64_be(f->t.bytes + f->t.snapshots + 72, f->t.l1);
	assert_int_equal(check(f, COW_REPAIR_ALL), 0);
	assert_finds(f, "is dropped: its L1 table lies over the active one");
	assert_int_equal(f->result.corruptions + f->result.leaks, 0);
	assert_true(tiny_image_reads(f->disk.bytes, memory_size(&f->disk)));
}

/* Opening an image that was not closed repairs it, but drops nothing. */
static void snapshots_are_kept(void **state)
{
	struct fixture *f = *state;
	struct cow_check_options options = { .repair = COW_REPAIR_ALL, .keep_snapshots = true };
	f->t.bytes[79] |= QCOW2_INCOMPAT_DIRTY;
	cow_store64_be(f->t.bytes + f->t.snapshots, f->t.snapshot_l1 + 8);
	assert_int_equal(memory_host_init(&f->disk, f->t.bytes, f->t.size, TINY_MAX_BYTES), 0);
	assert_int_equal(
		cow_check_file(&f->disk.loop, &f->disk.self.file, &options, &f->result, &f->err),
		0);
	assert_true(f->result.corruptions > 0);
	assert_memory_equal(f->disk.bytes, f->t.bytes, f->t.size);
}

/* ---- hostile ---- */

static void not_an_image(void **state)
{
	struct fixture *f = *state;
	f->t.bytes[0] = 'x';
	assert_int_equal(check(f, COW_REPAIR_NONE), -ENOTSUP);
	assert_non_null(strstr(f->err.text, "magic at offset 0"));
}

static void read_only_file(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(memory_host_init(&f->disk, f->t.bytes, f->t.size, TINY_MAX_BYTES), 0);
	f->disk.self.file.writable = false;
	assert_int_equal(check(f, COW_REPAIR_LEAKS), -EROFS);
	assert_int_equal(check(f, COW_REPAIR_NONE), 0);
}

/*
 * 65536 snapshots that all claim the same L1 table, whose entries all lead to one L2 table: 2^28 paths, done at once.
 */
static void work_stays_bounded(void **state)
{
	enum { NR = 65536, ENTRY = 64, TABLE = NR * ENTRY, SIZE = (4 << 20) + TABLE };
	struct fixture *f = *state;
	uint8_t *bytes = calloc(1, SIZE);
	const struct cow_header h = {
		.version = 3,
		.cluster_bits = 9,
		.size_bytes = 512,
		.l1_entries = 1,
		.l1_off = f->t.l1,
		.reftable_off = f->t.reftable,
		.reftable_clusters = 1,
		.nr_snapshots = NR,
		.snapshots_off = 4 << 20,
		.refcount_order = 4,
		.header_bytes = 112,
	};
	memcpy(bytes, f->t.bytes, f->t.size);
	cow_header_encode(&h, bytes, 512);
	for (unsigned i = 0; i < 4096; i++)
		cow_store64_be(bytes + (1 << 20) + i * 8, f->t.l2);
	for (unsigned i = 0; i < NR; i++) {
		uint8_t *p = bytes + (4 << 20) + (size_t)i * ENTRY;
		cow_store64_be(p, 1 << 20);
		cow_store32_be(p + 8, 4096);
		cow_store32_be(p + 36, 24);
	}
	assert_int_equal(memory_host_init(&f->disk, bytes, SIZE, SIZE), 0);
	free(bytes);
	clock_t start = clock();
	assert_int_equal(check(f, COW_REPAIR_NONE), 0);
	assert_finds(f, "is used as L1 table and as L1 table");
	assert_true(clock() - start < 20 * CLOCKS_PER_SEC);
}

int main(void)
{
#define CHECK_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		CHECK_TEST(clean),
		CHECK_TEST(shared_l2_counts_twice),
		CHECK_TEST(compressed_sectors_count),
		CHECK_TEST(end_of_a_short_file),
		CHECK_TEST(behind_the_end),
		CHECK_TEST(leaks_only),
		CHECK_TEST(leaks_only_leaves_errors),
		CHECK_TEST(nothing_is_freed_in_doubt),
		CHECK_TEST(data_is_not_repaired),
		CHECK_TEST(flags_of_compressed_clusters),
		CHECK_TEST(two_owners),
		CHECK_TEST(dirty_and_corrupt_bits),
		CHECK_TEST(bits_stay_while_corrupt),
		CHECK_TEST(refcount_that_does_not_fit),
		CHECK_TEST(bad_snapshot_is_dropped),
		CHECK_TEST(lost_snapshot_table_is_told),
		CHECK_TEST(good_snapshots_stay),
		CHECK_TEST(snapshots_are_kept),
		CHECK_TEST(not_an_image),
		CHECK_TEST(read_only_file),
		CHECK_TEST(work_stays_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
