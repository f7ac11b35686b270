/* SPDX-License-Identifier: MIT */
/* Messages are one line and keep their reason, whatever a path looks like. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/error.h"

static void the_first_wins(void **state)
{
	struct cow_error err = { 0 };
	assert_int_equal(cow_error_set(&err, -ENOENT, "%s: %d", "one", 1), -ENOENT);
	assert_int_equal(cow_error_set(&err, -EIO, "two"), -EIO);
	assert_int_equal(err.code, -ENOENT);
	assert_string_equal(err.text, "one: 1");
	cow_error_prefix(&err, "%s", "image");
	assert_string_equal(err.text, "image: one: 1");
	assert_int_equal(cow_error_set(NULL, -EIO, "nobody listens"), -EIO);
}

static void one_line(void **state)
{
	struct cow_error err = { 0 };
	cow_error_set(&err, -EINVAL, "a\nb\t\x1b[2Jc\x7f: d\xc3\xa4");
	assert_string_equal(err.text, "a?b??[2Jc?: d\xc3\xa4");
}

static void long_paths(void **state)
{
	char path[4096];
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	for (size_t len = 400; len < sizeof(path); len = len < 600 ? len + 1 : len * 2) {
		struct cow_error err = { 0 };
		cow_error_set(&err, -ENOENT, "/begin%.*s: the reason", (int)len, path);
		assert_true(strlen(err.text) < sizeof(err.text));
		assert_memory_equal(err.text, "/beginx", 7);
		assert_string_equal(err.text + strlen(err.text) - 13, "x: the reason");
		assert_int_equal(strstr(err.text, " ... ") != NULL, len + 18 >= sizeof(err.text));
		cow_error_prefix(&err, "%s", path);
		assert_string_equal(err.text + strlen(err.text) - 13, "x: the reason");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_wins),
		cmocka_unit_test(one_line),
		cmocka_unit_test(long_paths),
	};
	return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}
