/* SPDX-License-Identifier: MIT */
/*
 * The snapshot table and the bitmap directory: round trips, limits, and every truncation of a sound
 * table.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/be.h"
#include "engine/format/format.h"
#include "engine/format/bitmap_directory.h"

#define TABLE_OFF 0x50000u

static const struct cow_header header = {
	.version = 3,
	.cluster_bits = 16,
	.size_bytes = 1ull << 30,
	.nr_snapshots = 2,
	.snapshots_off = TABLE_OFF,
};

static struct cow_snapshot first(void)
{
	struct cow_snapshot s = {
		.l1_off = 0x70000,
		.l1_entries = 2,
		.date_sec = 5,
		.date_nsec = 6,
		.vm_clock_nsec = 7,
		.vm_state_bytes = 1ull << 33,
		.disk_bytes = 1 << 20,
		.icount = 9,
		.extra_bytes = 32,
		.id = (char *)"1",
		.name = (char *)"before the upgrade",
	};
	memset(s.extra + 24, 0xab, 8); /* of a later version: kept */
	return s;
}

static struct cow_snapshot second(void)
{
	struct cow_snapshot s = first();
	s.extra_bytes = 16;
	s.vm_state_bytes = 4096;
	s.id = (char *)"12345";
	s.name = (char *)"";
	return s;
}

/* Two entries; returns the table's length. */
static uint64_t build(uint8_t *table)
{
	struct cow_snapshot a = first(), b = second();
	cow_snapshot_encode(&a, table);
	cow_snapshot_encode(&b, table + cow_snapshot_bytes(&a));
	return cow_snapshot_bytes(&a) + cow_snapshot_bytes(&b);
}

static void round_trip(void **state)
{
	uint8_t table[1024];
	uint64_t len = build(table), used;
	struct cow_snapshot *list;
	struct cow_error err = { 0 };
	assert_int_equal(cow_snapshots_decode(table, len, TABLE_OFF, &header, &list, &used, &err),
			 0);
	assert_int_equal(used, len);
	assert_string_equal(list[0].name, "before the upgrade");
	assert_int_equal(list[0].vm_state_bytes, 1ull << 33);
	assert_int_equal(list[0].disk_bytes, 1 << 20);
	assert_int_equal(list[0].icount, 9);
	assert_int_equal(list[0].extra[31], 0xab);
	assert_string_equal(list[1].id, "12345");
	assert_true(list[1].icount == UINT64_MAX);
	assert_int_equal(list[1].entry_off, cow_snapshot_bytes(&list[0]));
	cow_snapshots_free(list, 2);
}

/*
 * A table cut short anywhere is refused, and nothing behind the cut is read (the buffer is as long
 * as the cut says).
 */
static void every_truncation(void **state)
{
	uint8_t table[1024];
	uint64_t len = build(table), used;
	for (uint64_t cut = 0; cut + 8 < len; cut++) {
		struct cow_snapshot *list;
		struct cow_error err = { 0 };
		uint8_t *copy = malloc(cut ? cut : 1);
		memcpy(copy, table, cut);
		assert_int_equal(
			cow_snapshots_decode(copy, cut, TABLE_OFF, &header, &list, &used, &err),
			-EINVAL);
		assert_null(list);
		assert_non_null(strstr(err.text, " at offset "));
		free(copy);
	}
}

static void extra_data_limits(void **state)
{
	static const struct {
		uint32_t version, extra_bytes;
		int ret;
	} cases[] = {
		{ 3, 15, -EINVAL },	    { 3, 16, 0 }, { 3, 1024, 0 }, { 3, 1025, -EINVAL },
		{ 3, UINT32_MAX, -EINVAL }, { 2, 0, 0 },  { 2, 8, 0 }
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t table[2048] = { 0 };
		uint64_t used;
		struct cow_snapshot *list;
		struct cow_error err = { 0 };
		struct cow_header h = header;
		h.nr_snapshots = 1;
		h.version = cases[i].version;
		cow_store32_be(table + 36, cases[i].extra_bytes);
		int ret = cow_snapshots_decode(table, sizeof(table), TABLE_OFF, &h, &list, &used,
					       &err);
		assert_int_equal(ret, cases[i].ret);
		if (ret)
			assert_non_null(strstr(err.text, "entry 0 at offset 327716"));
		else
			assert_int_equal(list[0].disk_bytes,
					 cases[i].extra_bytes >= 16 ? 0 : h.size_bytes);
		cow_snapshots_free(list, ret ? 0 : 1);
	}
}

static void more_snapshots_than_fit(void **state)
{
	uint8_t table[1024] = { 0 };
	uint64_t used;
	struct cow_snapshot *list;
	struct cow_error err = { 0 };
	struct cow_header h = header;
	h.nr_snapshots = 65536;
	assert_int_equal(
		cow_snapshots_decode(table, sizeof(table), TABLE_OFF, &h, &list, &used, &err),
		-EINVAL);
	assert_non_null(strstr(err.text, "nb_snapshots at offset 60"));
}

static void l1_rules(void **state)
{
	static const struct {
		uint64_t l1_off;
		uint32_t entries;
		const char *text;
	} cases[] = {
		{ 0x70000, 2, NULL },
		{ 0x70001, 2, "not cluster-aligned" },
		{ 0, 2, "over the header" },
		{ 0, 0, NULL },
		{ 0x70000, (4u << 20) + 1, "more than 32 MiB" },
		{ 0x70000, 0xffffffff, "more than 32 MiB" },
		{ 0xffffffffffff0000, 2, "past the end" },
		{ 1 << 20, 2, "past the end" },
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cow_snapshot s = first();
		struct cow_error err = { 0 };
		s.l1_off = cases[i].l1_off;
		s.l1_entries = cases[i].entries;
		int ret = cow_snapshot_verify_l1(&s, &header, 1 << 20, &err);
		assert_int_equal(ret, cases[i].text ? -EINVAL : 0);
		if (cases[i].text)
			assert_non_null(strstr(err.text, cases[i].text));
	}
}

/* ---- bitmaps ---- */

static uint64_t build_bitmap(uint8_t *p)
{
	memset(p, 0, 32);
	cow_store64_be(p, 0x80000);
	cow_store32_be(p + 8, 1);
	cow_store32_be(p + 12, COW_BITMAP_AUTO);
	p[16] = 1;
	p[17] = 16;
	cow_store16_be(p + 18, 3);
	memcpy(p + 24, "abc", 3);
	return 32;
}

static int decode_bitmaps(const uint8_t *dir, uint64_t bytes, uint32_t nr, struct cow_error *err)
{
	struct cow_extensions ext = { .nr_bitmaps = nr,
				      .bitmap_directory_bytes = bytes,
				      .bitmap_directory_off = TABLE_OFF };
	struct cow_bitmap *list;
	int ret = cow_bitmaps_decode(dir, &header, &ext, &list, err);
	if (!ret) {
		assert_string_equal(list[nr - 1].name, "abc");
		assert_int_equal(list[nr - 1].granularity_bits, 16);
	}
	free(list);
	return ret;
}

static void bitmap_directory(void **state)
{
	uint8_t dir[64];
	struct cow_error err = { 0 };
	build_bitmap(dir);
	build_bitmap(dir + 32);
	assert_int_equal(decode_bitmaps(dir, 64, 2, &err), 0);
	/* the last entry's padding may be missing */
	assert_int_equal(decode_bitmaps(dir, 59, 2, &err), 0);
	assert_int_equal(decode_bitmaps(dir, 58, 2, &err), -EINVAL);
	assert_non_null(strstr(err.text, "bitmap directory entry 1 at offset 327712"));
	err.code = 0;
	assert_int_equal(decode_bitmaps(dir, 64, 3, &err), -EINVAL);
}

static void broken_bitmap_entries(void **state)
{
	static const struct {
		unsigned at;
		uint8_t value;
		const char *text;
	} cases[] = {
		{ 7, 1, "not cluster-aligned" },
		{ 0, 0x80, "not cluster-aligned" },
		{ 11, 0, "empty" },
		{ 8, 0xff, "512 MiB" },
		{ 12, 1, "flags" },
		{ 16, 2, "type" },
		{ 17, 8, "granularity" },
		{ 17, 32, "granularity" },
		{ 19, 0, "name" },
		{ 18, 4, "name" },
		{ 23, 1, "extra data" },
		{ 19, 9, "past the end" },
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t dir[32];
		struct cow_error err = { 0 };
		build_bitmap(dir);
		dir[cases[i].at] = cases[i].value;
		assert_int_equal(decode_bitmaps(dir, 32, 1, &err), -EINVAL);
		if (!strstr(err.text, cases[i].text))
			fail_msg("case %u: '%s'", i, err.text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(every_truncation),
		cmocka_unit_test(extra_data_limits),
		cmocka_unit_test(more_snapshots_than_fit),
		cmocka_unit_test(l1_rules),
		cmocka_unit_test(bitmap_directory),
		cmocka_unit_test(broken_bitmap_entries),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
