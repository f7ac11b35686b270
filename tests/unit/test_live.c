/* SPDX-License-Identifier: MIT */
/* Snapshots of an image in use, on a host that refuses: all has happened or nothing, and the image goes on. */
#include "engine/life/live.h"

#include "tests/unit/request_fixture.h"

#define SMALL 4096u
#define NR 64u

static int setup(void **state)
{
	request_setup(state);
	struct fixture *f = *state;
	close_image(f);
	create_image(f, SMALL, 4u << 20);
	open_image(f);
	write_bytes(f, 0, NR * SMALL, 1);
	return 0;
}

static int change(struct fixture *f, enum cow_live_what what)
{
	struct cow_live_snapshot s = { .what = what, .key = { .text = "one" } };
	struct cow_error err = { 0 };
	int ret = cow_image_change_snapshot(f->image, &f->m->loop, &s, &err);
	free(s.id);
	return ret;
}

static uint64_t place(unsigned i)
{
	return i % NR * SMALL;
}

/* The i-th write is refused; false: there are fewer. */
static bool refuse(struct fixture *f, enum cow_live_what what, unsigned i)
{
	f->m->fail_kind = COW_IO_WRITE;
	f->m->fail_skip = i;
	f->m->fail_error = -ENOSPC;
	int ret = change(f, what);
	bool met = !f->m->fail_error;
	f->m->fail_error = 0;
	assert_true(met || !ret);
	assert_null(cow_image_failure(f->image));
	write_bytes(f, place(i + 7), SMALL, (int)(101 + i % 100));
	expect_bytes(f, place(i), SMALL, (int)(1 + i % 100));
	close_image(f);
	expect_clean(f);
	open_image(f);
	expect_bytes(f, place(i), SMALL, (int)(1 + i % 100));
	expect_bytes(f, place(i + 7), SMALL, (int)(101 + i % 100));
	bool there = header_of(f).nr_snapshots;
	assert_int_equal(there, what == COW_LIVE_CREATE ? !ret : ret != 0);
	if (there)
		assert_int_equal(change(f, COW_LIVE_DELETE), 0);
	return met;
}

static void refuse_each(struct fixture *f, enum cow_live_what what)
{
	unsigned i = 0;
	do {
		if (what == COW_LIVE_DELETE)
			assert_int_equal(change(f, COW_LIVE_CREATE), 0);
		write_bytes(f, place(i), SMALL, (int)(1 + i % 100));
	} while (refuse(f, what, i++));
	assert_true(i > 5);
}

static void test_create(void **state)
{
	refuse_each(*state, COW_LIVE_CREATE);
}

static void test_delete(void **state)
{
	refuse_each(*state, COW_LIVE_DELETE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_create, setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_delete, setup, request_teardown),
	};
	return cmocka_run_group_tests_name("live", tests, NULL, NULL);
}
