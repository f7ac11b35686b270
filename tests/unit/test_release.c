/* SPDX-License-Identifier: MIT */
/*
 * The release of freed clusters: unlink durable | refcount falls | punch, then reusable, and not
 * before all that began earlier is over.
 */
#include "tests/unit/space_fixture.h"

#define NR 4u

/* NR clusters that are in use: counted, written, on disk. */
static uint64_t use_some(struct space *s)
{
	assert_int_equal(space_refill(s), 0);
	uint64_t first = space_take(s, NR);
	assert_int_equal(space_write_back(s), 0);
	for (unsigned i = 0; i < NR; i++)
		assert_int_equal(space_refcount(s, first + i), 1);
	memory_fill(s->m, first * CLUSTER, 7, NR * CLUSTER);
	return first;
}

static void free_some(struct space *s, uint64_t first)
{
	assert_int_equal(cow_quarantine_reserve(&s->q, 1, 1), 1);
	cow_quarantine_add(&s->q, first, NR);
	cow_quarantine_unreserve(&s->q, 1);
	cow_quarantine_kick(&s->q, &s->m->loop);
}

static bool is_zero(const struct space *s, uint64_t cluster)
{
	for (unsigned i = 0; i < CLUSTER; i++)
		if (s->m->bytes[cluster * CLUSTER + i])
			return false;
	return true;
}

/* ---- the order ---- */

struct watch {
	struct space *s;
	uint64_t first;
	bool synced; /* since the refcount fell in the file */
	unsigned nr_punches, nr_unblocked, nr_early;
};

static void watch_io(void *ctx, const struct cow_io *io)
{
	struct watch *w = ctx;
	uint64_t until;
	bool fell = !space_refcount(w->s, w->first); /* before this one is done */
	w->synced = fell && (w->synced || io->kind == COW_IO_SYNC);
	if (io->kind != COW_IO_PUNCH)
		return;
	w->nr_punches++;
	w->nr_early += !w->synced;
	w->nr_unblocked += !cow_quarantine_blocks(&w->s->q, w->first, &until);
}

/* Punched only when the refcount has fallen durably; kept from the allocator until then. */
static void test_order(void **state)
{
	struct space *s = *state;
	struct watch w = { .s = s, .first = use_some(s) };
	uint64_t until;
	s->m->hook = watch_io;
	s->m->ctx = &w;
	free_some(s, w.first);
	space_run(s);
	assert_int_equal(w.nr_punches, 1);
	assert_int_equal(w.nr_early, 0);
	assert_int_equal(w.nr_unblocked, 0);
	assert_true(cow_quarantine_idle(&s->q));
	assert_int_equal(cow_quarantine_released(&s->q), 1);
	assert_false(cow_quarantine_blocks(&s->q, w.first, &until));
	for (unsigned i = 0; i < NR; i++) {
		assert_int_equal(space_refcount(s, w.first + i), 0);
		assert_true(is_zero(s, w.first + i));
	}
	s->m->hook = NULL;
}

/* The unlink is not durable while no pass can be written: the refcount stays. */
static void test_not_before_the_unlink(void **state)
{
	struct space *s = *state;
	uint64_t first = use_some(s);
	s->m->fail_kind = COW_IO_SYNC;
	s->m->fail_error = -EIO;
	free_some(s, first);
	space_run(s);
	assert_true(cow_core_is_failed(&s->core));
	assert_int_equal(space_refcount(s, first), 1);
	assert_false(is_zero(s, first));
	assert_int_equal(cow_quarantine_released(&s->q), 0);
}

/* ---- who may still use them ---- */

static void test_waits_for_old_requests(void **state)
{
	struct space *s = *state;
	uint64_t first = use_some(s), old = cow_epoch_enter(&s->epoch, 3);
	free_some(s, first);
	space_run(s);
	assert_int_equal(space_refcount(s, first), 1);
	assert_false(is_zero(s, first));
	uint64_t later = cow_epoch_enter(&s->epoch, 5); /* it began after the free */
	cow_epoch_leave(&s->epoch, 3, old);
	cow_quarantine_op_ended(&s->q);
	space_run(s);
	bool same = later == old; /* the epoch could not move on before the old one was over */
	assert_int_equal(space_refcount(s, first), same ? 1 : 0);
	cow_epoch_leave(&s->epoch, 5, later);
	cow_quarantine_op_ended(&s->q);
	space_run(s);
	assert_int_equal(space_refcount(s, first), 0);
	assert_true(is_zero(s, first));
}

static void set_refcount(struct space *s, uint64_t cluster, uint64_t count)
{
	uint64_t block = cow_table_get(&s->meta.reftable, cluster / s->core.g.refs_per_block);
	cow_refcount_set(s->m->bytes + block, s->core.g.refcount_order,
			 cluster % s->core.g.refs_per_block, count);
	cow_cache_drop_all(&s->meta.refs);
}

/* A snapshot has one of them too. */
static void test_shared_stays(void **state)
{
	struct space *s = *state;
	uint64_t first = use_some(s);
	set_refcount(s, first + 1, 2);
	free_some(s, first);
	space_run(s);
	assert_int_equal(space_refcount(s, first), 0);
	assert_int_equal(space_refcount(s, first + 1), 1);
	assert_int_equal(space_refcount(s, first + 2), 0);
	assert_true(is_zero(s, first));
	assert_false(is_zero(s, first + 1));
	assert_true(is_zero(s, first + 2));
}

static void watch_blocked(void *ctx, const struct cow_io *io)
{
	struct watch *w = ctx;
	uint64_t until;
	w->nr_punches += io->kind == COW_IO_PUNCH;
	for (unsigned i = 0; i < NR; i++)
		w->nr_unblocked += !space_refcount(w->s, w->first + i) &&
				   !cow_quarantine_blocks(&w->s->q, w->first + i, &until);
}

/* Compressed clusters share host clusters, and lie within what others take up. */
static void test_overlapping(void **state)
{
	struct space *s = *state;
	struct watch w = { .s = s, .first = use_some(s) };
	uint64_t until;
	set_refcount(s, w.first + 1, 2);
	s->m->hook = watch_blocked;
	s->m->ctx = &w;
	cow_quarantine_add(&s->q, w.first, NR);
	cow_quarantine_add(&s->q, w.first + 1, 1);
	assert_int_equal(cow_quarantine_extents(&s->q), 2);
	cow_quarantine_kick(&s->q, &s->m->loop);
	space_run(s);
	assert_true(w.nr_punches);
	assert_int_equal(w.nr_unblocked, 0);
	for (unsigned i = 0; i < NR; i++) {
		assert_int_equal(space_refcount(s, w.first + i), 0);
		assert_false(cow_quarantine_blocks(&s->q, w.first + i, &until));
	}
	s->m->hook = NULL;
}

static void test_not_counted_is_corrupt(void **state)
{
	struct space *s = *state;
	uint64_t first = use_some(s);
	set_refcount(s, first + 2, 0);
	free_some(s, first);
	space_run(s);
	assert_non_null(strstr(cow_core_failure(&s->core), "a cluster in use has refcount 0"));
	assert_false(is_zero(s, first));
}

/* Entries of a broken image lead to a table that is in use. */
static void test_metadata_is_not_freed(void **state)
{
	struct space *s = *state;
	uint64_t l1 = s->core.header.l1_off / CLUSTER;
	cow_quarantine_add(&s->q, l1, 1);
	cow_quarantine_kick(&s->q, &s->m->loop);
	space_run(s);
	assert_non_null(strstr(cow_core_failure(&s->core), "live metadata was freed"));
	assert_int_equal(space_refcount(s, l1), 1);
}

/* ---- a full host ---- */

/* Who waits is told; the release goes on when there is room, from where it was. */
static void test_full_host(void **state)
{
	struct space *s = *state;
	uint64_t first = use_some(s);
	s->m->fail_kind = COW_IO_WRITE; /* of refcounts: nothing else is dirty */
	s->m->fail_error = -ENOSPC;
	s->m->fail_more = 2;
	free_some(s, first);
	space_run(s);
	assert_false(cow_core_is_failed(&s->core));
	assert_int_equal(atomic_load(&s->q.nr_full), 3);
	assert_true(cow_quarantine_idle(&s->q));
	for (unsigned i = 0; i < NR; i++)
		assert_int_equal(space_refcount(s, first + i), 0);
	assert_true(is_zero(s, first));
}

/* Closing does not wait for it: what was freed is leaked, and said so. */
static void test_gives_up_at_close(void **state)
{
	struct space *s = *state;
	uint64_t first = use_some(s);
	s->m->fail_kind = COW_IO_WRITE;
	s->m->fail_error = -ENOSPC;
	s->m->fail_more = 1000;
	atomic_store(&s->q.closing, true);
	free_some(s, first);
	space_run(s);
	assert_false(cow_core_is_failed(&s->core));
	assert_true(cow_quarantine_idle(&s->q) && s->q.leaked);
	assert_false(is_zero(s, first));
	/* its marks are sound: the next one is released */
	s->m->fail_error = 0;
	assert_int_equal(space_write_back(s), 0);
	atomic_store(&s->q.closing, false);
	uint64_t next = space_take(s, NR);
	free_some(s, next);
	space_run(s);
	assert_int_equal(space_refcount(s, next), 0);
}

/* Larger than a batch, and than what is punched at once. */
static void test_many(void **state)
{
	struct space *s = *state;
	uint64_t first[40];
	for (unsigned i = 0; i < 40; i++) {
		if (space_reserved(&s->r) < NR)
			assert_int_equal(space_refill(s), 0);
		first[i] = space_take(s, NR);
	}
	assert_int_equal(space_write_back(s), 0);
	for (unsigned i = 0; i < 40; i++)
		free_some(s, first[i * 7 % 40]); /* in no order */
	space_run(s);
	assert_true(cow_quarantine_idle(&s->q));
	for (unsigned i = 0; i < 40; i++)
		for (unsigned j = 0; j < NR; j++)
			assert_int_equal(space_refcount(s, first[i] + j), 0);
}

static int setup_small(void **state)
{
	const struct cow_limits limits = { .release_batch = 3, .release_punches = 1 };
	return space_setup_limited(state, &limits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_order, space_setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_not_before_the_unlink, space_setup,
						space_teardown),
		cmocka_unit_test_setup_teardown(test_waits_for_old_requests, space_setup,
						space_teardown),
		cmocka_unit_test_setup_teardown(test_shared_stays, space_setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_overlapping, space_setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_not_counted_is_corrupt, space_setup,
						space_teardown),
		cmocka_unit_test_setup_teardown(test_metadata_is_not_freed, space_setup,
						space_teardown),
		cmocka_unit_test_setup_teardown(test_full_host, space_setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_gives_up_at_close, space_setup,
						space_teardown),
		cmocka_unit_test_setup_teardown(test_many, setup_small, space_teardown),
	};
	return cmocka_run_group_tests_name("release", tests, NULL, NULL);
}
