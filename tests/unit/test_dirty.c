/* SPDX-License-Identifier: MIT */
/*
 * Dirty bits against a naive model: ranges at all edges, extents, merging across granularities, the
 * form on disk.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/bitmap/dirty.h"
#include "engine/format/bitmap_directory.h"

#define MAX_SECTORS 2048u

/* A disk of some sectors of 512 bytes: which granules are dirty, by the sectors that they cover. */
struct model {
	uint64_t size;
	unsigned granularity_bits;
	bool sector[MAX_SECTORS];
};

static void model_set(struct model *m, uint64_t off, uint64_t bytes)
{
	uint64_t unit = 1ull << m->granularity_bits;
	uint64_t start = off / unit * unit, end = (off + bytes + unit - 1) / unit * unit;
	for (uint64_t s = start / 512; bytes && s < end / 512 && s < m->size / 512; s++)
		m->sector[s] = true;
}

static void assert_same(const struct model *m, const struct cow_dirty *d)
{
	bool seen[MAX_SECTORS] = { false };
	uint64_t off = 0, bytes, before = 0;
	for (; cow_dirty_next(d, &off, &bytes); off += bytes) {
		assert_true(bytes > 0 && off % 512 == 0 && bytes % 512 == 0 &&
			    off + bytes <= m->size);
		assert_true(off == 0 || off > before); /* neighbours are one extent */
		for (uint64_t s = off / 512; s < (off + bytes) / 512; s++)
			seen[s] = true;
		before = off + bytes;
	}
	assert_memory_equal(seen, m->sector, sizeof(seen));
}

static uint64_t below(uint64_t bound)
{
	return (uint64_t)rand() % bound;
}

static void new_pair(struct model *m, struct cow_dirty *d, uint64_t size, unsigned bits)
{
	*m = (struct model){ .size = size, .granularity_bits = bits };
	assert_int_equal(cow_dirty_init(d, size, bits), 0);
}

static void set_some(struct model *m, struct cow_dirty *d, unsigned nr)
{
	while (nr--) {
		uint64_t off = below(m->size / 512) * 512,
			 bytes = below((m->size - off) / 512 + 1) * 512;
		if (rand() % 2)
			bytes = bytes < 4096 ? bytes : 4096;
		model_set(m, off, bytes);
		cow_dirty_set(d, off, bytes);
	}
}

static void ranges(void **state)
{
	srand(1);
	for (unsigned round = 0; round < 3000; round++) {
		struct model m;
		struct cow_dirty d;
		new_pair(&m, &d, (1 + below(MAX_SECTORS)) * 512, 9 + (unsigned)below(5));
		assert_same(&m, &d);
		set_some(&m, &d, (unsigned)below(6));
		assert_same(&m, &d);
		cow_dirty_fini(&d);
	}
}

static void beyond_the_end(void **state)
{
	struct cow_dirty d;
	uint64_t off = 0, bytes;
	assert_int_equal(cow_dirty_init(&d, 65536 + 512, 16), 0);
	cow_dirty_set(&d, 65536 + 512, 512);
	cow_dirty_set(&d, 1ull << 60, 512);
	cow_dirty_set(&d, 0, 0);
	assert_false(cow_dirty_next(&d, &off, &bytes));
	assert_false(atomic_load(&d.changed));
	cow_dirty_set(&d, 65536, UINT64_MAX - 65536);
	assert_true(atomic_load(&d.changed));
	assert_true(cow_dirty_next(&d, &off, &bytes));
	assert_int_equal(off, 65536);
	assert_int_equal(bytes, 512);
	off = 65536 + 511; /* from inside an extent on */
	assert_true(cow_dirty_next(&d, &off, &bytes));
	assert_int_equal(bytes, 1);
	cow_dirty_fini(&d);
	assert_int_equal(cow_dirty_init(&d, 2ull << 40, 9), 0);
	cow_dirty_fini(&d);
	assert_int_equal(cow_dirty_init(&d, (2ull << 40) + 4096, 9), -EFBIG);
	assert_int_equal(cow_dirty_init(&d, INT64_MAX, 9), -EFBIG);
}

static void merging(void **state)
{
	srand(2);
	for (unsigned round = 0; round < 3000; round++) {
		struct model m, from_m;
		struct cow_dirty d, from;
		uint64_t size = (1 + below(MAX_SECTORS)) * 512, off = 0, bytes;
		new_pair(&m, &d, size, 9 + (unsigned)below(6));
		new_pair(&from_m, &from, size, 9 + (unsigned)below(6));
		set_some(&m, &d, 2);
		set_some(&from_m, &from, 3);
		cow_dirty_merge(&d, &from);
		for (; cow_dirty_next(&from, &off, &bytes); off += bytes)
			model_set(&m, off, bytes);
		assert_same(&m, &d);
		assert_same(&from_m, &from);
		cow_dirty_fini(&d);
		cow_dirty_fini(&from);
	}
}

/* Bit i is bit i % 8 of byte i / 8; bits behind the last granule are nobody's. */
static void form(void **state)
{
	uint8_t bytes[64];
	struct cow_dirty d, again;
	assert_int_equal(cow_dirty_init(&d, 70 * 512, 9), 0);
	assert_int_equal(cow_bitmap_data_bytes(70 * 512, 9), 9);
	cow_dirty_set(&d, 0, 1);
	cow_dirty_set(&d, 9 * 512, 512);
	cow_dirty_set(&d, 69 * 512, 512);
	assert_true(cow_dirty_store(&d, 0, bytes, sizeof(bytes)));
	const uint8_t expect[64] = { 1, 2, 0, 0, 0, 0, 0, 0, 32 };
	assert_memory_equal(bytes, expect, sizeof(bytes));
	assert_false(cow_dirty_store(&d, 512, bytes, sizeof(bytes)));

	memset(bytes, 0xff, sizeof(bytes));
	assert_int_equal(cow_dirty_init(&again, 70 * 512, 9), 0);
	cow_dirty_load(&again, 0, bytes, sizeof(bytes));
	uint64_t off = 0, length;
	assert_true(cow_dirty_next(&again, &off, &length));
	assert_true(off == 0 && length == 70 * 512);
	assert_true(cow_dirty_store(&again, 0, bytes, sizeof(bytes)));
	assert_int_equal(bytes[8], 0x3f);
	assert_int_equal(bytes[9], 0);
	cow_dirty_fini(&d);
	cow_dirty_fini(&again);
}

/* ---- the directory's entries ---- */

static void entries(void **state)
{
	const struct cow_header h = { .version = 3, .cluster_bits = 16 };
	struct cow_bitmap *list, some[] = {
		{ .table_off = 0x30000,
		  .table_entries = 2,
		  .flags = COW_BITMAP_AUTO,
		  .granularity_bits = 9,
		  .name = "a" },
		{ .table_off = 0x50000,
		  .table_entries = 1,
		  .flags = COW_BITMAP_IN_USE,
		  .granularity_bits = 31,
		  .name = "12345678" },
		{ .table_off = 0x70000, .table_entries = 8192, .granularity_bits = 16 },
	};
	memset(some[2].name, 'x', COW_MAX_BITMAP_NAME_BYTES);
	uint8_t dir[4096];
	struct cow_extensions ext = { .has_bitmaps = true,
				      .nr_bitmaps = 3,
				      .bitmap_directory_off = 0x10000 };
	for (unsigned i = 0; i < 3; i++) {
		some[i].entry_off = ext.bitmap_directory_bytes;
		cow_bitmap_encode(&some[i], dir + ext.bitmap_directory_bytes);
		ext.bitmap_directory_bytes += cow_bitmap_entry_bytes(&some[i]);
	}
	assert_int_equal(ext.bitmap_directory_bytes, 32 + 32 + 1048);
	assert_int_equal(cow_bitmaps_decode(dir, &h, &ext, &list, NULL), 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_string_equal(list[i].name, some[i].name);
		assert_int_equal(list[i].table_off, some[i].table_off);
		assert_int_equal(list[i].table_entries, some[i].table_entries);
		assert_int_equal(list[i].flags, some[i].flags);
		assert_int_equal(list[i].granularity_bits, some[i].granularity_bits);
		assert_int_equal(list[i].entry_off, some[i].entry_off);
	}
	free(list);
	dir[32 + 24 + 3] = '\0';
	assert_int_equal(cow_bitmaps_decode(dir, &h, &ext, &list, NULL), -EINVAL);
}

static void tables(void **state)
{
	struct cow_header h = { .version = 3, .cluster_bits = 16, .size_bytes = 1ull << 40 };
	assert_int_equal(cow_bitmap_table_entries(&h, 16), 32);
	h.size_bytes += 512;
	assert_int_equal(cow_bitmap_table_entries(&h, 16), 33);
	assert_null(cow_bitmap_table_fault(0, 65536));
	assert_null(cow_bitmap_table_fault(1, 65536));
	assert_null(cow_bitmap_table_fault(0x10000, 65536));
	assert_non_null(cow_bitmap_table_fault(0x10001, 65536));
	assert_non_null(cow_bitmap_table_fault(0x10200, 65536));
	assert_non_null(cow_bitmap_table_fault(2, 65536));
	assert_non_null(cow_bitmap_table_fault(1ull << 63, 65536));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranges),  cmocka_unit_test(beyond_the_end),
		cmocka_unit_test(merging), cmocka_unit_test(form),
		cmocka_unit_test(entries), cmocka_unit_test(tables),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
