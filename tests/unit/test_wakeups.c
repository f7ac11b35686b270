/* SPDX-License-Identifier: MIT */
/*
 * Who comes just as somebody else ends: in no order of the two (interleave.h) is a wake-up lost, or
 * work left that nobody will do.
 * interleaved: engine/core/commit.c engine/space/quarantine.c engine/space/release.c
 */
#include <stdio.h>

#include "tests/unit/space_fixture.h"

struct meeting {
	struct space *s;
	struct memory_host *other; /* its loop is the second thread's */
	struct waiter a, b;
	uint64_t cluster; /* the first of two in use */
	unsigned room;
	bool late; /* the second came when the first one was about to end */
	unsigned nr_late, nr_early;
};

static void begin(struct meeting *m)
{
	void *state;
	assert_int_equal(space_setup(&state), 0);
	m->s = state;
	m->late = false;
	m->a = m->b = (struct waiter){ .s = m->s };
	cow_task_init(&m->a.task, &step_waiter_ends, waiter_over);
	cow_task_init(&m->b.task, &step_waiter_ends, waiter_over);
}

static void run_both(struct meeting *m)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		COW_IGNORE(cow_loop_poll(&m->s->m->loop));
		COW_IGNORE(cow_loop_poll(&m->other->loop));
	}
}

static void over(struct meeting *m)
{
	void *state = m->s;
	m->nr_late += m->late;
	m->nr_early += !m->late;
	space_teardown(&state);
}

static void poll_first(struct meeting *m)
{
	for (unsigned i = 0; i < 10; i++)
		COW_IGNORE(cow_loop_poll(&m->s->m->loop));
}

static void meet(const char *what, void (*start)(void *), void (*first)(void *),
		 void (*second)(void *), void (*end)(void *))
{
	struct meeting m = { .other = memory_host_new() };
	struct interleave i = {
		.begin = start, .over = end, .threads = { first, second }, .ctx = &m, .switches = 2
	};
	unsigned orders = interleave(&i);
	printf("%s: %u orders, too late in %u\n", what, orders, m.nr_late);
	assert_true(m.nr_late && m.nr_early);
	memory_host_free(m.other);
}

/* ---- a pass that ends, and a task that wants one ---- */

static void pass_start(void *ctx)
{
	struct meeting *m = ctx;
	begin(m);
	interleave_watch(&m->s->core.commit.lock, sizeof(m->s->core.commit.lock));
}

static void pass_first(void *ctx)
{
	struct meeting *m = ctx;
	cow_loop_enter(&m->s->m->loop);
	cow_task_start(&m->a.task, &m->s->m->loop, &step_join_pass);
	poll_first(m);
}

static void pass_second(void *ctx)
{
	struct meeting *m = ctx;
	cow_loop_enter(&m->other->loop);
	m->late = m->s->core.commit.running; /* it has captured perhaps, and tells us nothing */
	cow_task_start(&m->b.task, &m->other->loop, &step_join_pass);
}

static void pass_end(void *ctx)
{
	struct meeting *m = ctx;
	run_both(m);
	assert_true(m->a.over && !m->a.task.error);
	assert_true(m->b.over && !m->b.task.error);
	assert_true(cow_commit_idle(&m->s->core.commit));
	over(m);
}

static void test_pass(void **state)
{
	meet("a pass", pass_start, pass_first, pass_second, pass_end);
}

/* ---- a release that ends, and one more cluster to be released ---- */

static void release_start(void *ctx)
{
	struct meeting *m = ctx;
	begin(m);
	struct space *s = m->s;
	const struct cow_commit_watch *watch = &s->core.commit.watch;
	assert_int_equal(space_refill(s), 0);
	m->cluster = space_take(s, 2);
	assert_int_equal(space_write_back(s), 0);
	cow_quarantine_add(&s->q, m->cluster, 1);
	watch->captured(watch->ctx);
	watch->completed(watch->ctx, true);
	atomic_store(&s->q.hurry, true);
	interleave_watch(&s->q.lock, sizeof(s->q.lock));
}

static void release_first(void *ctx)
{
	struct meeting *m = ctx;
	cow_loop_enter(&m->s->m->loop);
	cow_quarantine_kick(&m->s->q, &m->s->m->loop);
	poll_first(m);
}

static void release_second(void *ctx)
{
	struct meeting *m = ctx;
	cow_loop_enter(&m->other->loop);
	m->late = m->s->q.running;
	cow_quarantine_add(&m->s->q, m->cluster + 1, 1);
	cow_quarantine_kick(&m->s->q, &m->other->loop);
}

static void release_end(void *ctx)
{
	struct meeting *m = ctx;
	run_both(m);
	assert_int_equal(space_refcount(m->s, m->cluster), 0);
	assert_int_equal(space_refcount(m->s, m->cluster + 1), 0);
	assert_true(cow_quarantine_idle(&m->s->q));
	over(m);
}

static void test_release(void **state)
{
	meet("a release", release_start, release_first, release_second, release_end);
}

/* ---- room in the ring that comes back, and who needs it ---- */

static enum cow_next wait_for_room(struct cow_task *task)
{
	task->step = &step_waiter_ends;
	cow_quarantine_wait(&((struct waiter *)task)->s->q, 1, task);
	return COW_WAIT;
}

static const struct cow_step step_wait_for_room = { "test: room", wait_for_room };

static void room_start(void *ctx)
{
	struct meeting *m = ctx;
	begin(m);
	m->room = cow_quarantine_reserve(&m->s->q, 1, UINT32_MAX);
	interleave_watch(&m->s->q.lock, sizeof(m->s->q.lock));
}

static void room_first(void *ctx)
{
	struct meeting *m = ctx;
	cow_quarantine_unreserve(&m->s->q, m->room);
	m->room = 0;
}

static void room_second(void *ctx)
{
	struct meeting *m = ctx;
	cow_loop_enter(&m->other->loop);
	m->late = !m->room;
	cow_task_start(&m->b.task, &m->other->loop, &step_wait_for_room);
}

static void room_end(void *ctx)
{
	struct meeting *m = ctx;
	run_both(m);
	assert_true(m->b.over && !m->b.task.error);
	over(m);
}

static void test_room(void **state)
{
	meet("room", room_start, room_first, room_second, room_end);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pass),
		cmocka_unit_test(test_release),
		cmocka_unit_test(test_room),
	};
	return cmocka_run_group_tests_name("wakeups", tests, NULL, NULL);
}
