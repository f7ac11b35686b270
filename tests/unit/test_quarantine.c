/* SPDX-License-Identifier: MIT */
/*
 * The ring of freed extents by itself: its marks and the passes that move them, room and who waits
 * for it, what the allocator is kept off.
 */
#include "tests/unit/space_fixture.h"

static int setup(void **state)
{
	/* room for 16 extents besides the engine's own */
	const struct cow_limits limits = { .ring_own = 128, .ring = 144 };
	return space_setup_limited(state, &limits);
}

static void captured(struct space *s)
{
	s->core.commit.watch.captured(s->core.commit.watch.ctx);
}

static void completed(struct space *s, bool ok)
{
	s->core.commit.watch.completed(s->core.commit.watch.ctx, ok);
}

/* Nothing is durable but by the pass that captured it, and only if that was written. */
static void test_marks(void **state)
{
	struct space *s = *state;
	cow_quarantine_add(&s->q, 10, 1);
	captured(s);
	cow_quarantine_add(&s->q, 20, 1);
	completed(s, true);
	assert_int_equal(s->q.durable, 1);
	assert_int_equal(s->q.tail, 2);
	captured(s);
	completed(s, false);
	assert_int_equal(s->q.durable, 1);
	captured(s);
	completed(s, true);
	assert_int_equal(s->q.durable, 2);
	assert_int_equal(cow_quarantine_extents(&s->q), 2);
}

/* What lies side by side is one extent, unless that would make it older than it is. */
static void test_joins(void **state)
{
	struct space *s = *state;
	cow_quarantine_add(&s->q, 10, 1);
	cow_quarantine_add(&s->q, 11, 2);
	assert_int_equal(cow_quarantine_extents(&s->q), 1);
	assert_int_equal(s->q.ring[0].nr, 3);
	captured(s); /* what comes now is not in that pass */
	cow_quarantine_add(&s->q, 13, 1);
	assert_int_equal(cow_quarantine_extents(&s->q), 2);
	completed(s, true);
	assert_true(cow_epoch_passed(&s->epoch, cow_epoch_now(&s->epoch) - 1));
	assert_true(cow_epoch_passed(&s->epoch, cow_epoch_now(&s->epoch)));
	cow_quarantine_add(&s->q, 14, 1); /* nor was it freed in that epoch */
	assert_int_equal(cow_quarantine_extents(&s->q), 3);
	cow_quarantine_add(&s->q, 16, 1);
	assert_int_equal(cow_quarantine_extents(&s->q), 4);
}

static void test_room(void **state)
{
	struct space *s = *state;
	assert_int_equal(cow_quarantine_reserve(&s->q, 1, 10), 10);
	assert_int_equal(cow_quarantine_reserve(&s->q, 7, 7), 0);
	assert_int_equal(cow_quarantine_reserve(&s->q, 2, 64), 6);
	assert_int_equal(cow_quarantine_reserve(&s->q, 1, 1), 0);
	cow_quarantine_unreserve(&s->q, 16);
	/* who frees many leaves eight for the others */
	assert_int_equal(cow_quarantine_reserve_many(&s->q, 64), 8);
	assert_int_equal(cow_quarantine_reserve_many(&s->q, 1), 0);
	assert_int_equal(cow_quarantine_reserve(&s->q, 1, 1), 1);
	assert_int_equal(cow_quarantine_reserve_many(&s->q, 1), 0);
	assert_int_equal(cow_quarantine_reserve(&s->q, 7, 7), 7);
	cow_quarantine_unreserve(&s->q, 16);
	/* the ring holds what was reserved for, and the engine's own as well */
	for (unsigned i = 0; i < 144; i++)
		cow_quarantine_add(&s->q, 1000 + 2 * i, 1);
	assert_int_equal(cow_quarantine_reserve(&s->q, 1, 1), 0);
}

static enum cow_next wait_for_room(struct cow_task *task)
{
	task->step = &step_waiter_ends;
	cow_quarantine_wait(&((struct waiter *)task)->s->q, 1, task);
	return COW_WAIT;
}

static const struct cow_step step_wait_for_room = { "test: room", wait_for_room };

/* Until all of a waiter's least need can be there, however little it wants. */
static void test_who_waits_is_woken(void **state)
{
	struct space *s = *state;
	struct waiter w;
	assert_int_equal(cow_quarantine_reserve(&s->q, 1, 64), 16);
	space_wait(s, &w, &step_wait_for_room);
	assert_false(w.over);
	cow_quarantine_unreserve(&s->q, 7);
	space_run(s);
	assert_false(w.over);
	cow_quarantine_unreserve(&s->q, 1);
	space_run(s);
	assert_true(w.over && !w.task.error);
	space_wait(s, &w, &step_wait_for_room); /* there is room: no wait */
	assert_true(w.over && !w.task.error);
	cow_quarantine_unreserve(&s->q, 8);
}

static void test_who_waits_for_a_failed_image_is_told(void **state)
{
	struct space *s = *state;
	struct waiter w;
	assert_int_equal(cow_quarantine_reserve(&s->q, 1, 64), 16);
	space_wait(s, &w, &step_wait_for_room);
	assert_false(w.over);
	cow_core_fail(&s->core, &s->m->loop, "for a test");
	cow_quarantine_kick(&s->q, &s->m->loop);
	space_run(s);
	assert_true(w.over);
	assert_int_equal(w.task.error, -EIO);
}

static void test_blocks(void **state)
{
	struct space *s = *state;
	const struct cow_host_run runs[] = { { 5, 3 }, { 20, 1 }, { 30, 4 } };
	uint64_t until = 0;
	memcpy(s->q.blocked, runs, sizeof(runs));
	s->q.nr_blocked = 3;
	for (uint64_t c = 0; c < 40; c++) {
		bool in = (c >= 5 && c < 8) || c == 20 || (c >= 30 && c < 34);
		assert_int_equal(cow_quarantine_blocks(&s->q, c, &until), in);
		if (in)
			assert_int_equal(until, c < 8 ? 8 : c == 20 ? 21 : 34);
	}
	s->q.nr_blocked = 0;
	assert_false(cow_quarantine_blocks(&s->q, 5, &until));
}

/* During a change of the whole image no release starts; and none runs when it begins. */
static void test_hold(void **state)
{
	struct space *s = *state;
	cow_quarantine_add(&s->q, 10, 1);
	assert_false(cow_quarantine_hold(&s->q));
	captured(s);
	completed(s, true);
	s->q.head = s->q.tail;
	assert_true(cow_quarantine_hold(&s->q));
	cow_quarantine_add(&s->q, 20, 1);
	cow_quarantine_kick(&s->q, &s->m->loop);
	assert_false(cow_quarantine_runs_on(&s->q, &s->m->loop));
	cow_quarantine_resume(&s->q);
	cow_quarantine_kick(&s->q, &s->m->loop);
	assert_true(cow_quarantine_runs_on(&s->q, &s->m->loop));
	cow_core_fail(&s->core, &s->m->loop, "for a test: nothing counts these clusters");
	space_run(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_marks, setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_joins, setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_room, setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_who_waits_is_woken, setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_who_waits_for_a_failed_image_is_told, setup,
						space_teardown),
		cmocka_unit_test_setup_teardown(test_blocks, setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_hold, setup, space_teardown),
	};
	return cmocka_run_group_tests_name("quarantine", tests, NULL, NULL);
}
