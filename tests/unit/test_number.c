/* SPDX-License-Identifier: MIT */
/* Numbers are read whole or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/base/number.h"

#define UNTOUCHED 4711u

static void whole(void **state)
{
	static const struct {
		const char *text;
		uint64_t max, value;
	} good[] = {
		{ "0", 0, 0 },
		{ "7", 7, 7 },
		{ "10", UINT64_MAX, 10 },
		{ "4294967294", UINT32_MAX - 1, UINT32_MAX - 1 },
		{ "18446744073709551615", UINT64_MAX, UINT64_MAX },
	};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		uint64_t value = UNTOUCHED;
		assert_true(cow_number_parse(good[i].text, good[i].max, &value));
		assert_int_equal(value, good[i].value);
	}
}

static void not_whole(void **state)
{
	static const struct {
		const char *text;
		uint64_t max;
	} bad[] = {
		{ "", UINT64_MAX },
		{ "+0", UINT64_MAX },
		{ "-0", UINT64_MAX },
		{ " 0", UINT64_MAX },
		{ "0 ", UINT64_MAX },
		{ "\t1", UINT64_MAX },
		{ "00", UINT64_MAX },
		{ "01", UINT64_MAX },
		{ "0x1", UINT64_MAX },
		{ "1k", UINT64_MAX },
		{ "1.0", UINT64_MAX },
		{ "8", 7 },
		{ "10", 9 },
		{ "4294967295", UINT32_MAX - 1 },
		{ "4294967296", UINT32_MAX - 1 },
		{ "18446744073709551616", UINT64_MAX },
		{ "184467440737095516150", UINT64_MAX },
		{ "99999999999999999999999999999999", UINT64_MAX },
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t value = UNTOUCHED;
		assert_false(cow_number_parse(bad[i].text, bad[i].max, &value));
		assert_int_equal(value, UNTOUCHED);
	}
}

static void in_a_list(void **state)
{
	const char *text = "012-3,x";
	uint64_t value;
	assert_true(cow_number_take(&text, 100, &value));
	assert_int_equal(value, 12);
	assert_string_equal(text, "-3,x");
	assert_false(cow_number_take(&text, 100, &value));
	assert_string_equal(text, "-3,x");
	text++;
	assert_false(cow_number_take(&text, 2, &value));
	assert_true(cow_number_take(&text, 3, &value));
	assert_string_equal(text, ",x");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole),
		cmocka_unit_test(not_whole),
		cmocka_unit_test(in_a_list),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
