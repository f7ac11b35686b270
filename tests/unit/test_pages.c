/* SPDX-License-Identifier: MIT */
/* Memory that is taken when it is touched and can be given back, also when it is locked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/pages.h"

#define PAGES 64u

static size_t page;

static unsigned resident(void *p)
{
	unsigned char there[PAGES];
	unsigned nr = 0;
	assert_int_equal(mincore(p, PAGES * page, there), 0);
	for (unsigned i = 0; i < PAGES; i++)
		nr += there[i] & 1;
	return nr;
}

static void check(bool lock)
{
	char *p = cow_pages_reserve(PAGES * page);
	assert_non_null(p);
	assert_int_equal(resident(p), 0);
	if (lock && mlock2(p, PAGES * page, MLOCK_ONFAULT))
		skip(); /* not permitted */
	p[3 * page] = 'x';
	cow_pages_take(p + 2 * page + 1, 4 * page);
	assert_int_equal(resident(p), 5);
	assert_int_equal(p[3 * page], 'x');
	cow_pages_give_back(p + 2 * page + 1, 3 * page); /* two whole ones */
	assert_int_equal(resident(p), 3);
	assert_int_equal(p[3 * page], 0);
	memset(p, 'y', PAGES * page);
	cow_pages_clear(p, PAGES * page - 1);
	assert_int_equal(resident(p), 0);
	assert_int_equal(p[PAGES * page - 1], 0);
	cow_pages_free(p, PAGES * page);
}

static void test_plain(void **state)
{
	check(false);
}

static void test_locked(void **state)
{
	check(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_plain),
					    cmocka_unit_test(test_locked) };
	page = (size_t)sysconf(_SC_PAGESIZE);
	return cmocka_run_group_tests_name("pages", tests, NULL, NULL);
}
