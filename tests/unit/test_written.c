/* SPDX-License-Identifier: MIT */
/* Marks of what writeback passes have written: by parts of clusters, and what a full table means. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/meta/written.h"

static void marks_are_taken_once(void **state)
{
	struct cow_written w;
	assert_int_equal(cow_written_init(&w, 16, 12, 100), 0);
	assert_int_equal(cow_written_parts(&w), 16);
	assert_int_equal(cow_written_all(&w), 0xffff);
	assert_false(cow_written_test(&w, 7));
	cow_written_note(&w, 7 << 16, 4096);
	cow_written_note(&w, (7 << 16) + 5 * 4096, 2 * 4096);
	cow_written_note(&w, (8 << 16) + 15 * 4096, 4096);
	assert_true(cow_written_test(&w, 7));
	assert_int_equal(cow_written_take(&w, 7), 0x61);
	assert_false(cow_written_test(&w, 7));
	assert_int_equal(cow_written_take(&w, 7), 0);
	assert_int_equal(cow_written_take(&w, 8), 0x8000);
	cow_written_note(&w, 7 << 16, 1 << 16);
	assert_int_equal(cow_written_take(&w, 7), 0xffff);
	cow_written_fini(&w);
}

/* 512 slices of 4 KiB make 64 parts; one slice is a part of one. */
static void large_and_small_clusters(void **state)
{
	struct cow_written w;
	assert_int_equal(cow_written_init(&w, 21, 12, 100), 0);
	assert_int_equal(cow_written_parts(&w), 64);
	assert_true(cow_written_all(&w) == UINT64_MAX);
	cow_written_note(&w, (3ull << 21) + (1 << 21) - 4096, 4096);
	assert_true(cow_written_take(&w, 3) == 1ull << 63);
	cow_written_note(&w, 3ull << 21, 1 << 21);
	assert_true(cow_written_take(&w, 3) == UINT64_MAX);
	cow_written_fini(&w);
	assert_int_equal(cow_written_init(&w, 9, 9, 100), 0);
	cow_written_note(&w, 3 << 9, 512);
	assert_int_equal(cow_written_take(&w, 3), 1);
	cow_written_fini(&w);
}

/* As many as were asked for are told apart; with too many everything counts as written. */
static void too_many_are_all(void **state)
{
	struct cow_written w;
	const uint64_t nr = 5000;
	assert_int_equal(cow_written_init(&w, 16, 12, nr), 0);
	for (uint64_t i = 0; i < nr; i++)
		cow_written_note(&w, i * 977 << 16, 4096);
	assert_int_equal(cow_written_take(&w, 1), 0);
	for (uint64_t i = 0; i < nr; i++)
		assert_int_equal(cow_written_take(&w, i * 977), 1);
	for (uint64_t i = 0; i < 4 * nr; i++)
		cow_written_note(&w, ((1ull << 30) + i) << 16, 4096);
	assert_true(cow_written_test(&w, 1));
	assert_int_equal(cow_written_take(&w, 1), 0xffff);
	cow_written_fini(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(marks_are_taken_once),
		cmocka_unit_test(large_and_small_clusters),
		cmocka_unit_test(too_many_are_all),
	};
	return cmocka_run_group_tests_name("written", tests, NULL, NULL);
}
