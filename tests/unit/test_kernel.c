/* SPDX-License-Identifier: MIT */
/* Kernels by their names: which are known for a bug, which recover. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/device/kernel.h"

static void bugs_are_told_by_number(void **state)
{
	static const char *const bad[] = {
		"6.7.1",  "6.12.9-amd64", "6.12.22+bpo-cloud-amd64", "6.13.10-arch1-1", "6.14.1",
		"6.14.0", "6.8"
	};
	static const char *const good[] = { "6.6.99",	      "6.12.23", "6.12.95+deb12-amd64",
					    "6.13.11",	      "6.14.2",	 "6.15.0",
					    "7.3.4",	      "16.12.9", "",
					    "six.twelve.nine" };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_non_null(cow_kernel_find_bug(bad[i]));
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_null(cow_kernel_find_bug(good[i]));
}

/* What a distribution has mended does not show in a number that stands still. */
static void distributions_are_told_by_name(void **state)
{
	assert_null(cow_kernel_find_bug("6.8.0-52-generic"));
	assert_null(cow_kernel_find_bug("6.17.0-8-generic"));
	assert_null(cow_kernel_find_bug("6.17.0"));
	assert_null(cow_kernel_find_bug("6.17.4-aws"));
	assert_non_null(cow_kernel_find_bug("6.17.0-1015-azure"));
	assert_non_null(cow_kernel_find_bug("6.17.0-1017-aws"));
}

static void recovery_begins_with_7_1(void **state)
{
	assert_false(cow_kernel_recovers("6.12.95+deb12-cloud-amd64"));
	assert_false(cow_kernel_recovers("7.0.12"));
	assert_false(cow_kernel_recovers(""));
	assert_true(cow_kernel_recovers("7.1"));
	assert_true(cow_kernel_recovers("7.1.0-rc1"));
	assert_true(cow_kernel_recovers("7.10.0-3-amd64"));
	assert_true(cow_kernel_recovers("11.2.3"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bugs_are_told_by_number),
		cmocka_unit_test(distributions_are_told_by_name),
		cmocka_unit_test(recovery_begins_with_7_1),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
