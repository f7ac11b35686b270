/* SPDX-License-Identifier: MIT */
/* While the whole image is changed nothing else of the engine's touches its file. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/buf.h"
#include "engine/create/create.h"
#include "engine/life/freeze.h"
#include "engine/life/image.h"
#include "engine/request/inspect.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "tests/memory/memory_host.h"
#include "tests/unit/disk_fixture.h"

#define CLUSTER 65536u

struct fixture {
	struct memory_host *m;
	struct cow_image *image;
	struct cow_queue *queues[2];
	uint8_t *buf;
	unsigned during; /* writes and punches while the change ran */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->m = memory_host_new();
	cow_loop_enter(&f->m->loop);
	f->buf = cow_buf_alloc(CLUSTER);
	memset(f->buf, 5, CLUSTER);
	struct cow_create_options create = { .size_bytes = 8u << 20,
					     .has_size = true,
					     .cluster_bytes = CLUSTER };
	struct cow_open_options options = { .writable = true, .compress = true };
	struct cow_error err = { 0 };
	assert_int_equal(cow_create(&f->m->host, &f->m->loop, "/disk", &create, &err), 0);
	assert_int_equal(
		cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &f->image, &err), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(cow_queue_new(f->image, &f->m->loop, 4, &f->queues[i]), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	cow_loop_enter(NULL);
	free(f->buf);
	memory_host_free(f->m);
	free(f);
	return 0;
}

static unsigned changes(struct fixture *f, unsigned from)
{
	unsigned nr = 0;
	for (unsigned i = from; i < f->m->nr_trace; i++)
		nr += f->m->trace[i].kind == COW_IO_WRITE || f->m->trace[i].kind == COW_IO_PUNCH;
	return nr;
}

/* A queue leaves, with the tail that it packed compressed clusters into; time passes. */
static int lose_queue(void *ctx, struct cow_loop *loop, struct cow_file *file,
		      struct cow_error *err)
{
	struct fixture *f = ctx;
	unsigned from = f->m->nr_trace;
	cow_queue_free(f->queues[0]);
	for (unsigned i = 0; i < 1000; i++)
		COW_IGNORE(cow_loop_poll(loop));
	f->during = changes(f, from);
	return 0;
}

static void test_queue_leaves_during_change(void **state)
{
	struct fixture *f = *state;
	struct cow_error err = { 0 };
	assert_int_equal(cow_queue_do(f->queues[0], COW_OP_WRITE, 0, 0, CLUSTER, f->buf), 0);
	assert_int_equal(cow_image_change_frozen(f->image, &f->m->loop, lose_queue, f, NULL, &err),
			 0);
	assert_int_equal(f->during, 0);
	assert_int_equal(cow_queue_do(f->queues[1], COW_OP_WRITE, 0, CLUSTER, 512, f->buf), 0);
	assert_int_equal(cow_queue_do(f->queues[1], COW_OP_READ, 0, 0, CLUSTER, f->buf), 0);
	assert_int_equal(f->buf[CLUSTER - 1], 5);
	cow_queue_free(f->queues[1]);
	if (cow_image_close(f->image, &f->m->loop, &err))
		fail_msg("close: %s", err.text);
	disk_expect_clean(f->m);
}

/* ---- requests ---- */

static void note_result(void *ctx, int result)
{
	*(int *)ctx = result;
}

#define PENDING 1

struct meanwhile {
	struct fixture *f;
	int before, during; /* results of requests made then */
	bool was_over, was_parked, was_durable;
	int result; /* of the change */
};

static bool is_durable(const struct fixture *f)
{
	unsigned i = f->m->nr_trace;
	while (i && f->m->trace[i - 1].kind != COW_IO_SYNC &&
	       f->m->trace[i - 1].kind != COW_IO_WRITE)
		i--;
	return i && f->m->trace[i - 1].kind == COW_IO_SYNC;
}

/* What ran is over and on disk; what comes waits. */
static int ask_for_more(void *ctx, struct cow_loop *loop, struct cow_file *file,
			struct cow_error *err)
{
	struct meanwhile *w = ctx;
	struct cow_inspected at;
	w->was_over = w->before == 0;
	w->was_durable = is_durable(w->f);
	w->during = PENDING;
	unsigned from = w->f->m->nr_trace;
	cow_queue_submit(w->f->queues[1], 1, COW_OP_WRITE, 0, 2 * CLUSTER, CLUSTER, w->f->buf,
			 note_result, &w->during);
	for (unsigned i = 0; i < 1000; i++)
		COW_IGNORE(cow_loop_poll(loop));
	w->f->during = changes(w->f, from);
	w->was_parked = w->during == PENDING && cow_inspect(w->f->queues[1], 1, &at) &&
			!strcmp(at.step, "admit") && at.waits_for &&
			!strcmp(at.waits_for, "the end of a freeze");
	return w->result;
}

static void close_all(struct fixture *f)
{
	struct cow_error err = { 0 };
	for (unsigned i = 0; i < 2; i++)
		cow_queue_free(f->queues[i]);
	if (cow_image_close(f->image, &f->m->loop, &err))
		fail_msg("close: %s", err.text);
	disk_expect_clean(f->m);
}

static void change_meanwhile(struct fixture *f, int result)
{
	struct meanwhile w = { .f = f, .before = PENDING, .result = result };
	struct cow_error err = { 0 };
	cow_queue_submit(f->queues[0], 0, COW_OP_WRITE, 0, 0, CLUSTER, f->buf, note_result,
			 &w.before);
	assert_int_equal(w.before, PENDING);
	assert_int_equal(
		cow_image_change_frozen(f->image, &f->m->loop, ask_for_more, &w, NULL, &err),
		result);
	assert_true(w.was_over && w.was_durable && w.was_parked);
	assert_int_equal(f->during, 0);
	for (unsigned i = 0; i < 1000; i++)
		COW_IGNORE(cow_loop_poll(&f->m->loop));
	assert_int_equal(w.during, 0);
}

static void test_requests_wait(void **state)
{
	change_meanwhile(*state, 0);
	close_all(*state);
}

/* They go on after a change that failed, and another one may begin. */
static void test_failed_change(void **state)
{
	change_meanwhile(*state, -ENOSPC);
	change_meanwhile(*state, 0);
	close_all(*state);
}

/* One change of the whole image at a time. */
static int change_again(void *ctx, struct cow_loop *loop, struct cow_file *file,
			struct cow_error *err)
{
	struct fixture *f = ctx;
	struct cow_error own = { 0 };
	f->during = (unsigned)-cow_image_change_frozen(f->image, loop, change_again, f, NULL, &own);
	return 0;
}

static void test_one_at_a_time(void **state)
{
	struct fixture *f = *state;
	struct cow_error err = { 0 };
	assert_int_equal(
		cow_image_change_frozen(f->image, &f->m->loop, change_again, f, NULL, &err), 0);
	assert_int_equal(f->during, EBUSY);
	close_all(f);
}

/* ---- loading anew ---- */

/* The host fails so many reads from here on. */
static int lose_reads(void *ctx, struct cow_loop *loop, struct cow_file *file,
		      struct cow_error *err)
{
	struct fixture *f = ctx;
	f->m->fail_kind = COW_IO_READ;
	f->m->fail_error = -EIO;
	f->m->fail_more = f->during - 1;
	return 0;
}

static int change_without_reads(struct fixture *f, unsigned nr)
{
	struct cow_error err = { 0 };
	f->during = nr;
	int ret = cow_image_change_frozen(f->image, &f->m->loop, lose_reads, f, NULL, &err);
	f->m->fail_error = 0;
	f->m->fail_more = 0;
	return ret;
}

static void test_one_read_error_passes(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(cow_queue_do(f->queues[0], COW_OP_WRITE, 0, 0, CLUSTER, f->buf), 0);
	assert_int_equal(change_without_reads(f, 1), 0);
	memset(f->buf, 0, CLUSTER);
	assert_int_equal(cow_queue_do(f->queues[0], COW_OP_READ, 0, 0, CLUSTER, f->buf), 0);
	assert_int_equal(f->buf[CLUSTER - 1], 5);
	close_all(f);
}

/* The tables in memory are those of before the change: what they lead to may be another's now. */
static void test_nothing_is_read_by_old_tables(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(cow_queue_do(f->queues[0], COW_OP_WRITE, 0, 0, CLUSTER, f->buf), 0);
	assert_int_equal(change_without_reads(f, 1000), -EIO);
	assert_non_null(cow_image_failure(f->image));
	assert_int_equal(cow_queue_do(f->queues[0], COW_OP_READ, 0, 0, CLUSTER, f->buf), -EIO);
	assert_int_equal(cow_queue_do(f->queues[1], COW_OP_READ, 0, 0, 512, f->buf), -EIO);
	for (unsigned i = 0; i < 2; i++)
		cow_queue_free(f->queues[i]);
	assert_int_equal(cow_image_close(f->image, &f->m->loop, NULL), -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_requests_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failed_change, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_at_a_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_queue_leaves_during_change, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_read_error_passes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nothing_is_read_by_old_tables, setup,
						teardown),
	};
	return cmocka_run_group_tests_name("freeze", tests, NULL, NULL);
}
