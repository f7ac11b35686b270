/* SPDX-License-Identifier: MIT */
/* What a close gives back: request_teardown() closes the image and finds no leak. */
#include "tests/unit/request_fixture.h"

static void test_reservations(void **state)
{
	write_bytes(*state, 0, 512, 1);
}

/*
 * Free clusters within the file, counted already when the host refuses those behind its end. No
 * other refill takes them over.
 */
static void test_what_a_failed_refill_took(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 8 * CLUSTER, 1);
	start(f, 0, COW_OP_DISCARD, 0, 0, 4 * CLUSTER, 0);
	expect_result(f, 0, 0);
	settle(f);
	close_image(f);
	open_image(f);
	f->m->fail_kind = COW_IO_RESIZE;
	f->m->fail_error = -EIO;
	start(f, 0, COW_OP_WRITE, 0, 0, 512, 2);
	expect_result(f, 0, -EIO);
	assert_int_equal(f->m->fail_error, 0);
	assert_null(cow_image_failure(f->image));
}

/* And nothing where all of it is used by the next one. */
static void test_spare_ones_are_used(void **state)
{
	struct fixture *f = *state;
	test_what_a_failed_refill_took(state);
	write_bytes(f, 0, 4 * CLUSTER, 2);
	settle(f);
	expect_bytes(f, 0, 4 * CLUSTER, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_reservations, request_setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_what_a_failed_refill_took, request_setup,
						request_teardown),
		cmocka_unit_test_setup_teardown(test_spare_ones_are_used, request_setup,
						request_teardown),
	};
	return cmocka_run_group_tests_name("close", tests, NULL, NULL);
}
