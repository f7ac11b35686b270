/* SPDX-License-Identifier: MIT */
/* Who waits for a writeback pass, and who holds it off. */
#include "tests/unit/space_fixture.h"

/* During a change of the whole image; who joins then is in the first pass after it. */
static void test_held(void **state)
{
	struct space *s = *state;
	struct waiter w;
	unsigned passes = s->meta.writeback.nr_passes;
	assert_true(cow_commit_hold(&s->core.commit));
	cow_commit_kick(&s->core.commit, &s->m->loop);
	space_wait(s, &w, &step_join_pass);
	assert_false(w.over);
	assert_true(cow_commit_idle(&s->core.commit));
	assert_int_equal(s->meta.writeback.nr_passes, passes);
	cow_commit_resume(&s->core.commit, &s->m->loop);
	space_run(s);
	assert_true(w.over && !w.task.error);
	assert_int_equal(s->meta.writeback.nr_passes, passes + 1);
}

/* Nobody's wish is forgotten. */
static void test_wanted(void **state)
{
	struct space *s = *state;
	unsigned passes = s->meta.writeback.nr_passes;
	assert_true(cow_commit_hold(&s->core.commit));
	cow_commit_kick(&s->core.commit, &s->m->loop);
	space_run(s);
	assert_int_equal(s->meta.writeback.nr_passes, passes);
	cow_commit_resume(&s->core.commit, &s->m->loop);
	space_run(s);
	assert_int_equal(s->meta.writeback.nr_passes, passes + 1);
	assert_true(cow_commit_idle(&s->core.commit));
}

/* Not while one runs. */
static void test_running(void **state)
{
	struct space *s = *state;
	struct waiter w;
	assert_int_equal(space_refill(s), 0);
	s->m->hold_bytes = CLUSTER; /* a slice of refcounts */
	cow_commit_kick(&s->core.commit, &s->m->loop);
	space_run(s);
	assert_non_null(s->m->held);
	assert_false(cow_commit_hold(&s->core.commit));
	space_wait(s, &w, &step_join_pass); /* the next one's */
	assert_false(w.over);
	memory_let_go(s->m, CLUSTER);
	space_run(s);
	assert_true(w.over && !w.task.error);
	assert_true(cow_commit_hold(&s->core.commit));
	cow_commit_resume(&s->core.commit, &s->m->loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_held, space_setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_wanted, space_setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_running, space_setup, space_teardown),
	};
	return cmocka_run_group_tests_name("commit", tests, NULL, NULL);
}
