/* SPDX-License-Identifier: MIT */
/* Which disk the kernel swaps to, as /proc/swaps has it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/device/swaps.h"

#define HEAD "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
#define AREA(path) path "                            partition\t1535996\t\t0\t\t-2\n"

static void test_names(void **state)
{
	assert_false(cow_swaps_name("", "ublkb1"));
	assert_false(cow_swaps_name(HEAD, "ublkb1"));
	assert_true(cow_swaps_name(HEAD AREA("/dev/ublkb1"), "ublkb1"));
	assert_true(cow_swaps_name(HEAD AREA("/dev/sda2") AREA("/dev/ublkb1p12"), "ublkb1"));
	assert_true(cow_swaps_name(HEAD AREA("/ublkb1"), "ublkb1"));
	assert_false(cow_swaps_name(HEAD AREA("/dev/ublkb12") AREA("/dev/sda"), "ublkb1"));
	assert_false(cow_swaps_name(HEAD AREA("/dev/ublkb1part"), "ublkb1"));
	assert_false(cow_swaps_name(HEAD AREA("/dev/ublkb1p"), "ublkb1"));
	assert_false(cow_swaps_name(HEAD AREA("/home/ublkb1/swapfile"), "ublkb1"));
	assert_false(cow_swaps_name("/dev/ublkb", "ublkb1"));
	assert_true(cow_swaps_name("/dev/ublkb1", "ublkb1"));
}

static void test_kernel(void **state)
{
	int fd = cow_swaps_open();
	if (fd < 0)
		skip();
	assert_false(cow_swaps_have(fd, "ublkb4000000000"));
	assert_false(cow_swaps_have(fd, "ublkb4000000000"));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_names),
					    cmocka_unit_test(test_kernel) };
	return cmocka_run_group_tests_name("swaps", tests, NULL, NULL);
}
