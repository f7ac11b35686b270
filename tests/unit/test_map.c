/* SPDX-License-Identifier: MIT */
/* L2 and L1 entries: which kind, which rule is broken, how far a run goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/format/map.h"

#define CLUSTER 4096u
#define HOST(n) ((uint64_t)(n)*CLUSTER)

#define RAW(r) ((struct cow_l2_entry){ .raw = (r) })

static struct cow_geometry geometry(uint32_t version)
{
	struct cow_header h = {
		.version = version, .cluster_bits = 12, .size_bytes = 1 << 30, .refcount_order = 4
	};
	struct cow_geometry g;
	cow_geometry_init(&g, &h);
	return g;
}

static void test_kinds(void **state)
{
	static const struct {
		uint64_t raw;
		enum cow_kind v3, v2;
	} cases[] = {
		{ 0, COW_UNALLOCATED, COW_UNALLOCATED },
		{ HOST(5), COW_NORMAL, COW_NORMAL },
		{ HOST(5) | QCOW2_COPIED, COW_NORMAL, COW_NORMAL },
		{ QCOW2_ZERO, COW_ZERO_PLAIN, COW_BAD },
		{ HOST(5) | QCOW2_ZERO, COW_ZERO_ALLOC, COW_BAD },
		{ HOST(5) | QCOW2_COPIED | QCOW2_ZERO, COW_ZERO_ALLOC, COW_BAD },
		{ QCOW2_COMPRESSED | 12345, COW_COMPRESSED, COW_COMPRESSED },
		{ QCOW2_COMPRESSED | QCOW2_COPIED | 12345, COW_BAD, COW_BAD },
		{ HOST(5) + 512, COW_BAD, COW_BAD },
		{ HOST(5) | 2, COW_BAD, COW_BAD },
		{ HOST(5) | 1ull << 56, COW_BAD, COW_BAD },
		{ HOST(5) | 1ull << 61, COW_BAD, COW_BAD },
		{ QCOW2_COPIED, COW_BAD, COW_BAD },
		{ QCOW2_COPIED | QCOW2_ZERO, COW_BAD, COW_BAD },
	};
	struct cow_geometry g3 = geometry(3), g2 = geometry(2);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cow_entry e = cow_entry_decode(&g3, RAW(cases[i].raw), 0);
		assert_int_equal(e.kind, cases[i].v3);
		assert_int_equal(e.raw, cases[i].raw);
		assert_int_equal(e.kind == COW_BAD,
				 cow_entry_fault(&g3, RAW(cases[i].raw)) != NULL);
		assert_int_equal(cow_entry_decode(&g2, RAW(cases[i].raw), 0).kind, cases[i].v2);
	}
}

static void test_host_and_copied(void **state)
{
	struct cow_geometry g = geometry(3);
	struct cow_entry e = cow_entry_decode(&g, RAW(HOST(77) | QCOW2_COPIED), 0);
	assert_true(e.copied);
	assert_int_equal(e.host.v, HOST(77));
	e = cow_entry_decode(&g, RAW(HOST(77) | QCOW2_ZERO), 0);
	assert_false(e.copied);
	assert_int_equal(e.host.v, HOST(77));
	e = cow_entry_decode(&g, RAW((1ull << 56) - CLUSTER), 0);
	assert_int_equal(e.kind, COW_NORMAL);
	assert_int_equal(e.host.v, (1ull << 56) - CLUSTER);
}

static uint8_t slice[CLUSTER];

static void fill(uint32_t from, uint32_t nr, uint64_t raw, uint64_t step)
{
	struct cow_geometry g = geometry(3);
	for (uint32_t i = 0; i < nr; i++)
		cow_entry_set(&g, slice, from + i, RAW(raw + i * step));
}

static uint32_t run_at(uint32_t idx, uint32_t max)
{
	struct cow_geometry g = geometry(3);
	struct cow_goff off = { HOST(idx) };
	return (uint32_t)(cow_map_run(&g, slice, off, HOST(max)).bytes / CLUSTER);
}

static void test_runs(void **state)
{
	memset(slice, 0, sizeof(slice));
	fill(10, 5, HOST(100) | QCOW2_COPIED, CLUSTER); /* 10..14 one run */
	fill(15, 5, HOST(105), CLUSTER);		/* adjacent, but not COPIED */
	fill(20, 2, HOST(200), CLUSTER);		/* elsewhere on the host */
	fill(22, 3, QCOW2_ZERO, 0);
	fill(25, 2, HOST(300) | QCOW2_ZERO, CLUSTER);
	fill(27, 2, HOST(400) | QCOW2_ZERO, 0); /* the same host cluster twice is no run */
	fill(29, 2, QCOW2_COMPRESSED | 512, 0);
	fill(31, 2, 2, 0); /* bad */
	assert_int_equal(run_at(0, 512), 10);
	assert_int_equal(run_at(0, 3), 3);
	assert_int_equal(run_at(9, 512), 1);
	assert_int_equal(run_at(10, 512), 5);
	assert_int_equal(run_at(12, 2), 2);
	assert_int_equal(run_at(12, 512), 3);
	assert_int_equal(run_at(15, 512), 5);
	assert_int_equal(run_at(20, 512), 2);
	assert_int_equal(run_at(22, 512), 3);
	assert_int_equal(run_at(25, 512), 2);
	assert_int_equal(run_at(27, 512), 1);
	assert_int_equal(run_at(29, 512), 1);
	assert_int_equal(run_at(31, 512), 1);
	assert_int_equal(run_at(33, 100000), 512 - 33);
	assert_int_equal(run_at(511, 100000), 1);
}

static void test_l1(void **state)
{
	struct cow_geometry g = geometry(3);
	assert_null(cow_map_l1_fault(&g, 0));
	assert_null(cow_map_l1_fault(&g, HOST(9)));
	assert_null(cow_map_l1_fault(&g, HOST(9) | QCOW2_COPIED));
	assert_non_null(cow_map_l1_fault(&g, HOST(9) + 512));
	assert_non_null(cow_map_l1_fault(&g, HOST(9) | 1));
	assert_non_null(cow_map_l1_fault(&g, HOST(9) | 1ull << 62));
	assert_non_null(cow_map_l1_fault(&g, QCOW2_COPIED));
}

static void test_zero_kinds(void **state)
{
	assert_true(cow_kind_is_zero(COW_ZERO_PLAIN));
	assert_true(cow_kind_is_zero(COW_ZERO_ALLOC));
	assert_false(cow_kind_is_zero(COW_UNALLOCATED));
	assert_false(cow_kind_is_zero(COW_NORMAL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kinds),	   cmocka_unit_test(test_host_and_copied),
		cmocka_unit_test(test_runs),	   cmocka_unit_test(test_l1),
		cmocka_unit_test(test_zero_kinds),
	};
	return cmocka_run_group_tests_name("map", tests, NULL, NULL);
}
