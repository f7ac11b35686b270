/* SPDX-License-Identifier: MIT */
/* A filter of system calls does not see what a ring does: the ring refuses what nobody needs. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/loop/loop_uring.h"

struct guest {
	struct cow_completion completion;
	int res;
	bool done;
};

static void guest_done(struct cow_completion *completion, int res, unsigned flags)
{
	struct guest *g = (struct guest *)completion;
	g->res = res;
	g->done = true;
}

static void test_restricted(void **state)
{
	struct cow_loop *loop;
	int ret = cow_loop_uring_new(8, &loop);
	if (ret == -ENOSYS || ret == -EPERM)
		skip(); /* io_uring is forbidden here */
	assert_int_equal(ret, 0);
	cow_loop_enter(loop);
	struct guest ops[3] = { 0 };
	for (unsigned i = 0; i < 3; i++)
		ops[i].completion.fn = guest_done;
	io_uring_prep_openat(cow_uring_sqe(loop, &ops[0].completion), AT_FDCWD, "/etc/passwd",
			     O_RDONLY, 0);
	io_uring_prep_close(cow_uring_sqe(loop, &ops[1].completion), 12345);
	struct io_uring_sqe *flagged = cow_uring_sqe(loop, &ops[2].completion);
	io_uring_prep_nop(flagged);
	flagged->flags = IOSQE_ASYNC;
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(cow_loop_run_until(loop, &ops[i].done), 0);
		assert_int_equal(ops[i].res, -EACCES);
	}
	int fds[1] = { STDERR_FILENO };
	assert_int_equal(io_uring_register_files(cow_uring_ring(loop), fds, 1), -EACCES);
	cow_loop_enter(NULL);
	cow_loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_restricted) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
