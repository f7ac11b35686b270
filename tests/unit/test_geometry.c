/* SPDX-License-Identifier: MIT */
/*
 * Offsets to indices and back, for every cluster size, with 8 and 16-byte L2 entries and every
 * refcount width.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/base/math.h"
#include "engine/format/geometry.h"

static struct cow_geometry make(uint32_t cluster_bits, uint32_t order, uint64_t incompatible)
{
	struct cow_header h = {
		.version = 3,
		.cluster_bits = cluster_bits,
		.size_bytes = 1ull << 40,
		.refcount_order = order,
		.incompatible = incompatible,
	};
	struct cow_geometry g;
	cow_geometry_init(&g, &h);
	return g;
}

/*
 * The entry's place from L1 index, slice and index in the slice is the one that plain division
 * gives.
 */
static void check_place(const struct cow_geometry *g, uint64_t off)
{
	struct cow_goff goff = { off };
	uint64_t per_table = g->cluster_bytes / g->entry_bytes;
	uint64_t cluster = off / g->cluster_bytes;
	assert_int_equal(cow_l1_idx(g, goff), cluster / per_table);
	uint64_t in_table =
		cow_l2_slice_off(g, goff) + (uint64_t)cow_l2_slice_idx(g, goff) * g->entry_bytes;
	assert_int_equal(in_table, cluster % per_table * g->entry_bytes);
	assert_int_equal(cow_l2_slice_off(g, goff) % g->slice_bytes, 0);
	assert_true(cow_l2_slice_idx(g, goff) < g->slice_entries);
	assert_int_equal(cow_in_cluster(g, off), off % g->cluster_bytes);
}

static void check_places(const struct cow_geometry *g)
{
	uint64_t spans[] = { g->cluster_bytes, cow_slice_span_bytes(g), cow_l1_span_bytes(g) };
	assert_int_equal(cow_l1_span_bytes(g),
			 (uint64_t)g->cluster_bytes / g->entry_bytes * g->cluster_bytes);
	for (unsigned i = 0; i < 3; i++) {
		for (uint64_t n = 0; n < 5; n++) {
			check_place(g, n * spans[i]);
			check_place(g, (n + 1) * spans[i] - 512);
		}
	}
}

static void test_places(void **state)
{
	for (uint32_t bits = QCOW2_MIN_CLUSTER_BITS; bits <= QCOW2_MAX_CLUSTER_BITS; bits++) {
		struct cow_geometry g = make(bits, 4, 0);
		assert_int_equal(g.entry_bytes, 8);
		assert_int_equal(g.sub_bytes, g.cluster_bytes);
		assert_true(g.slice_bytes <= COW_SLICE_MAX_BYTES &&
			    g.slice_bytes <= g.cluster_bytes);
		check_places(&g);
	}
}

static void test_extended(void **state)
{
	for (uint32_t bits = 14; bits <= QCOW2_MAX_CLUSTER_BITS; bits++) {
		struct cow_geometry g = make(bits, 4, QCOW2_INCOMPAT_EXTL2);
		assert_true(g.extended_l2);
		assert_int_equal(g.entry_bytes, 16);
		assert_int_equal(g.sub_bytes * 32u, g.cluster_bytes);
		check_places(&g);
	}
}

static void test_refcounts(void **state)
{
	for (uint32_t order = 0; order <= QCOW2_MAX_REFCOUNT_ORDER; order++) {
		struct cow_geometry g = make(16, order, 0);
		assert_int_equal(g.refs_per_block, 65536u * 8 >> order);
		assert_int_equal(g.refs_per_slice * (g.cluster_bytes / g.slice_bytes),
				 g.refs_per_block);
		assert_true(g.max_refcount ==
			    (order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1));
	}
}

static void test_rounding(void **state)
{
	assert_int_equal(cow_round_up(0, 512), 0);
	assert_int_equal(cow_round_up(1, 512), 512);
	assert_int_equal(cow_round_up(512, 512), 512);
	assert_int_equal(cow_round_down(1023, 512), 512);
	assert_int_equal(cow_min(3, 4), 3);
	assert_int_equal(cow_max(3, 4), 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_places),
		cmocka_unit_test(test_extended),
		cmocka_unit_test(test_refcounts),
		cmocka_unit_test(test_rounding),
	};
	return cmocka_run_group_tests_name("geometry", tests, NULL, NULL);
}
