/* SPDX-License-Identifier: MIT */
/* What a live snapshot command does to numbers, tables and refcount blocks: delta.h, shadow.h. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/be.h"
#include "engine/format/map.h"
#include "engine/snapshot/shadow.h"

#define CLUSTER 512u

static const struct cow_shadow_part all = { 0, CLUSTER };

static struct cow_geometry geometry(uint32_t refcount_order)
{
	const struct cow_header h = { .version = 3,
				      .cluster_bits = 9,
				      .size_bytes = 1 << 20,
				      .refcount_order = refcount_order };
	struct cow_geometry g;
	cow_geometry_init(&g, &h);
	return g;
}

static void put(uint8_t *table, unsigned idx, uint64_t raw)
{
	cow_store64_be(table + 8 * idx, raw);
}

static uint64_t entry(const uint8_t *table, unsigned idx)
{
	return cow_load64_be(table + 8 * idx);
}

/* ---- numbers ---- */

static void numbers_are_kept(void **state)
{
	static const int64_t steps[] = { 1, 1, 1, -1, -1, -1, -1, -1, 40000, -90000 };
	struct cow_delta d;
	int64_t sum = 0;
	cow_delta_init(&d);
	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		sum += steps[i];
		assert_int_equal(cow_delta_add(&d, 70001, (int)steps[i]), 0);
		assert_int_equal(cow_delta_get(&d, 70001), sum);
	}
	assert_int_equal(cow_delta_get(&d, 70000), 0);
	assert_int_equal(cow_delta_get(&d, 70002), 0);
	cow_delta_fini(&d);
}

static void neighbours_survive_widening(void **state)
{
	struct cow_delta d;
	cow_delta_init(&d);
	for (int i = -1; i <= 2; i++)
		assert_int_equal(cow_delta_add(&d, 100 + (unsigned)(i + 1), i), 0);
	assert_int_equal(cow_delta_add(&d, 9, 3), 0);
	for (int i = -1; i <= 2; i++)
		assert_int_equal(cow_delta_get(&d, 100 + (unsigned)(i + 1)), i);
	assert_int_equal(cow_delta_get(&d, 9), 3);
	cow_delta_fini(&d);
}

static void next_finds_all(void **state)
{
	static const uint64_t at[] = { 0, 3, 4, 16383, 16384, 100000 };
	const unsigned nr = sizeof(at) / sizeof(at[0]);
	struct cow_delta d;
	unsigned found = 0;
	cow_delta_init(&d);
	for (unsigned i = 0; i < nr; i++)
		assert_int_equal(cow_delta_add(&d, at[i], i % 2 ? 1 : -1), 0);
	for (uint64_t c = cow_delta_next(&d, 0, 1 << 20); c < 1 << 20;
	     c = cow_delta_next(&d, c + 1, 1 << 20))
		assert_int_equal(c, at[found++]);
	assert_int_equal(found, nr);
	assert_int_equal(cow_delta_next(&d, 4, 4), 4);
	assert_int_equal(cow_delta_next(&d, 5, 16383), 16383);
	cow_delta_fini(&d);
}

static void nonsense_is_refused(void **state)
{
	struct cow_delta d;
	cow_delta_init(&d);
	assert_int_equal(cow_delta_add(&d, 1ull << 50, 1), -EOVERFLOW);
	assert_int_equal(cow_delta_add(&d, 1, INT32_MAX), 0);
	assert_int_equal(cow_delta_add(&d, 1, 1), -EOVERFLOW);
	assert_int_equal(cow_delta_get(&d, 1), INT32_MAX);
	cow_delta_fini(&d);
}

/* A TiB of 64 KiB clusters, each with one reference more: the promise of live.h. */
static void memory_is_bounded(void **state)
{
	struct cow_delta d;
	cow_delta_init(&d);
	for (uint64_t c = 0; c < 1 << 24; c++)
		assert_int_equal(cow_delta_add(&d, c, 1), 0);
	assert_true(d.bytes <= (1 << 24) / 4 + (1 << 16));
	cow_delta_fini(&d);
}

/* ---- tables ---- */

static void references_are_counted_by_difference(void **state)
{
	struct cow_geometry g = geometry(4);
	uint8_t before[CLUSTER] = { 0 }, now[CLUSTER] = { 0 };
	struct cow_delta d;
	cow_delta_init(&d);
	put(before, 0, 10 * CLUSTER | QCOW2_COPIED);
	put(before, 1, 11 * CLUSTER);
	put(before, 2, cow_compressed_encode(20 * CLUSTER + 100, 600, 9) | QCOW2_COMPRESSED);
	assert_int_equal(cow_shadow_count(&d, &g, NULL, before, all, 1), 0);
	assert_int_equal(cow_delta_get(&d, 10), 1);
	assert_int_equal(cow_delta_get(&d, 11), 1);
	assert_int_equal(cow_delta_get(&d, 20), 1);
	assert_int_equal(cow_delta_get(&d, 21), 1);
	put(now, 0, 10 * CLUSTER); /* only the flag differs */
	put(now, 1, 12 * CLUSTER | QCOW2_COPIED);
	assert_int_equal(cow_shadow_count(&d, &g, before, now, all, 1), 0);
	assert_int_equal(cow_delta_get(&d, 10), 1);
	assert_int_equal(cow_delta_get(&d, 11), 0);
	assert_int_equal(cow_delta_get(&d, 12), 1);
	assert_int_equal(cow_delta_get(&d, 20), 0);
	assert_int_equal(cow_delta_get(&d, 21), 0);
	cow_delta_fini(&d);
}

static void flags_follow_marks(void **state)
{
	struct cow_geometry g = geometry(4);
	uint8_t table[CLUSTER] = { 0 };
	struct cow_delta d;
	cow_delta_init(&d);
	put(table, 0, 10 * CLUSTER);
	put(table, 1, 11 * CLUSTER);
	put(table, 2, cow_compressed_encode(12 * CLUSTER, 100, 9) | QCOW2_COMPRESSED);
	assert_false(cow_shadow_set_copied(&g, &d, table, all));
	assert_int_equal(cow_delta_mark_one(&d, 10, true), 0);
	assert_int_equal(cow_delta_mark_one(&d, 12, true), 0);
	assert_true(cow_shadow_set_copied(&g, &d, table, all));
	assert_int_equal(entry(table, 0), 10 * CLUSTER | QCOW2_COPIED);
	assert_int_equal(entry(table, 1), 11 * CLUSTER);
	assert_false(entry(table, 2) & QCOW2_COPIED);
	assert_true(cow_shadow_has_copied(&g, table));
	cow_shadow_clear_copied(&g, table, all);
	assert_false(cow_shadow_has_copied(&g, table));
	cow_delta_fini(&d);
}

static void faults_are_found(void **state)
{
	struct cow_geometry g = geometry(4);
	uint8_t table[CLUSTER] = { 0 };
	uint32_t at;
	assert_null(cow_shadow_fault(&g, table, all, &at));
	put(table, 5, 10 * CLUSTER | 1ull << 60);
	assert_non_null(cow_shadow_fault(&g, table, all, &at));
	assert_int_equal(at, 40);
}

/* ---- refcounts ---- */

static void counts_never_fall_to_zero(void **state)
{
	struct cow_geometry g = geometry(4);
	uint8_t block[CLUSTER] = { 0 };
	uint64_t first = g.refs_per_block, cluster;
	struct cow_delta d;
	cow_delta_init(&d);
	for (unsigned i = 0; i < 4; i++) {
		cow_refcount_set(block, 4, i, i + 1);
		assert_int_equal(cow_delta_add(&d, first + i, i == 3 ? 2 : -1), 0);
	}
	assert_int_equal(cow_shadow_refcounts(&d, &g, first, block, all, &cluster), COW_SHADOW_OK);
	assert_int_equal(cow_refcount_get(block, 4, 0), 1); /* freed later */
	assert_int_equal(cow_refcount_get(block, 4, 1), 1);
	assert_int_equal(cow_refcount_get(block, 4, 2), 2);
	assert_int_equal(cow_refcount_get(block, 4, 3), 6);
	assert_false(cow_delta_is_one(&d, first));
	assert_true(cow_delta_is_one(&d, first + 1));
	assert_false(cow_delta_is_one(&d, first + 2));
	cow_delta_fini(&d);
}

static void bad_counts_are_named(void **state)
{
	struct cow_geometry g = geometry(0);
	uint8_t block[CLUSTER] = { 0 };
	uint64_t cluster;
	struct cow_delta d;
	cow_delta_init(&d);
	assert_int_equal(cow_delta_add(&d, 7, 1), 0);
	assert_int_equal(cow_shadow_refcounts(&d, &g, 0, block, all, &cluster), COW_SHADOW_LOW);
	assert_int_equal(cluster, 7);
	cow_refcount_set(block, 0, 7, 1);
	assert_int_equal(cow_shadow_refcounts(&d, &g, 0, block, all, &cluster), COW_SHADOW_HIGH);
	assert_int_equal(cow_delta_add(&d, 7, -3), 0);
	assert_int_equal(cow_shadow_refcounts(&d, &g, 0, block, all, &cluster), COW_SHADOW_LOW);
	cow_delta_fini(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_kept),
		cmocka_unit_test(neighbours_survive_widening),
		cmocka_unit_test(next_finds_all),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(memory_is_bounded),
		cmocka_unit_test(references_are_counted_by_difference),
		cmocka_unit_test(flags_follow_marks),
		cmocka_unit_test(faults_are_found),
		cmocka_unit_test(counts_never_fall_to_zero),
		cmocka_unit_test(bad_counts_are_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
