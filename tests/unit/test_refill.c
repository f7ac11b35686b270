/* SPDX-License-Identifier: MIT */
/*
 * The refill of a queue's reservation: what it takes is counted, lies in the file, reads as zeros
 * where it says so, and is taken once.
 */
#include "engine/base/math.h"
#include "tests/unit/space_fixture.h"

static uint64_t first_of(const struct cow_reserve *r)
{
	return r->extents[r->pos].cluster;
}

static void test_first(void **state)
{
	struct space *s = *state;
	uint64_t end = memory_size(s->m) / CLUSTER;
	assert_int_equal(space_refill(s), 0);
	assert_int_equal(space_reserved(&s->r), 16);
	assert_int_equal(s->r.nr - s->r.pos, 1);
	assert_true(s->r.extents[s->r.pos].zero);
	assert_true(first_of(&s->r) + 16 <= memory_size(s->m) / CLUSTER);
	assert_true(memory_size(s->m) / CLUSTER > end); /* extended, ahead */
	/* counted, and the pass that says so puts data first */
	assert_true(atomic_load(&s->core.commit.ordered_data));
	assert_int_equal(space_write_back(s), 0);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(space_refcount(s, first_of(&s->r) + i), 1);
	/* the next one is twice as large, and lies behind it */
	uint64_t first = space_take(s, 16);
	space_run(s); /* taking the last ones has it refilled */
	assert_int_equal(space_reserved(&s->r), 32);
	assert_int_equal(first_of(&s->r), first + 16);
}

/* ---- one at a time ---- */

static enum cow_next wait_on(struct cow_task *task, struct cow_reserve *r)
{
	task->step = &step_waiter_ends;
	cow_reserve_wait(r, task);
	return COW_WAIT;
}

static struct cow_reserve second;

static enum cow_next wait_on_second(struct cow_task *task)
{
	return wait_on(task, &second);
}

static const struct cow_step step_wait_on_second = { "test: second", wait_on_second };

static void test_baton(void **state)
{
	struct space *s = *state;
	struct waiter a = { .s = s }, b = { .s = s };
	cow_reserve_init(&second, &s->alloc);
	cow_refill_init(&second);
	cow_task_init(&a.task, &step_waiter_ends, waiter_over);
	cow_task_init(&b.task, &step_waiter_ends, waiter_over);
	s->m->hold_bytes = CLUSTER; /* the read of a refcount slice, under the baton */
	cow_cache_drop_all(&s->meta.refs);
	cow_task_start(&a.task, &s->m->loop, &step_wait_for_clusters);
	cow_task_start(&b.task, &s->m->loop, &step_wait_on_second);
	space_run(s);
	assert_non_null(s->m->held);
	assert_true(s->r.has_baton && !second.has_baton && second.refilling);
	assert_false(a.over || b.over);
	memory_let_go(s->m, CLUSTER);
	space_run(s);
	assert_true(a.over && b.over && !s->alloc.busy);
	assert_int_equal(space_reserved(&s->r), 16);
	assert_int_equal(space_reserved(&second), 16);
	uint64_t x = first_of(&s->r), y = first_of(&second);
	assert_true(x + 16 <= y || y + 16 <= x);
}

/* ---- used before ---- */

/* 16 clusters are freed and released; then somebody's old bytes are there after all. */
static uint64_t recycle(struct space *s)
{
	assert_int_equal(space_refill(s), 0);
	uint64_t first = space_take(s, 16);
	space_run(s);
	assert_int_equal(space_write_back(s), 0);
	cow_quarantine_add(&s->q, first, 16);
	cow_quarantine_kick(&s->q, &s->m->loop);
	space_run(s);
	assert_int_equal(space_refcount(s, first), 0);
	memory_fill(s->m, first * CLUSTER, 9, 16 * CLUSTER);
	return first;
}

static const struct cow_reserved *extent_of(const struct cow_reserve *r, uint64_t cluster)
{
	for (unsigned i = r->pos; i < r->nr; i++)
		if (cluster - r->extents[i].cluster < r->extents[i].nr)
			return &r->extents[i];
	return NULL;
}

static void test_recycled_is_punched(void **state)
{
	struct space *s = *state;
	uint64_t first = recycle(s);
	assert_int_equal(space_refill(s), 0);
	const struct cow_reserved *e = extent_of(&s->r, first);
	assert_true(e && e->zero);
	for (unsigned i = 0; i < 16 * CLUSTER; i++)
		assert_int_equal(s->m->bytes[first * CLUSTER + i], 0);
}

/* What is there is not known then. */
static void test_a_failed_punch_is_no_hole(void **state)
{
	struct space *s = *state;
	uint64_t first = recycle(s);
	s->m->fail_kind = COW_IO_PUNCH;
	s->m->fail_error = -EOPNOTSUPP;
	assert_int_equal(space_refill(s), 0);
	const struct cow_reserved *e = extent_of(&s->r, first);
	assert_true(e && !e->zero);
	assert_true(s->alloc.cannot_punch);
}

/*
 * A change of the frozen image has used clusters behind all that were ever taken, and freed them
 * again: their refcount is 0, but they are no holes.
 */
static void test_a_change_leaves_no_holes(void **state)
{
	struct space *s = *state;
	assert_int_equal(space_refill(s), 0);
	uint64_t from = first_of(&s->r) + 16, end = from + 64;
	space_take(s, 16);
	space_run(s);
	assert_int_equal(space_write_back(s), 0);
	from += space_reserved(&s->r); /* taking the last ones has it refilled */
	memory_fill(s->m, from * CLUSTER, 9, (end - from) * CLUSTER);
	s->core.file->size_bytes = memory_size(s->m);
	cow_alloc_restart(&s->alloc, memory_size(s->m));
	assert_int_equal(space_refill(s), 0);
	for (unsigned i = s->r.pos; i < s->r.nr; i++) {
		const struct cow_reserved *e = &s->r.extents[i];
		for (uint64_t at = 0; e->zero && at < e->nr * CLUSTER; at++)
			assert_int_equal(s->m->bytes[e->cluster * CLUSTER + at], 0);
	}
}

/* Their refcount is 0, but they are still being punched. */
static void test_blocked_is_not_taken(void **state)
{
	struct space *s = *state;
	uint64_t first = recycle(s);
	s->q.blocked[0] = (struct cow_host_run){ .cluster = first, .nr = 15 };
	s->q.nr_blocked = 1;
	assert_int_equal(space_refill(s), 0);
	for (unsigned i = 0; i < 15; i++)
		assert_null(extent_of(&s->r, first + i));
	assert_non_null(extent_of(&s->r, first + 15));
	s->q.nr_blocked = 0;
}

/* ---- a full host ---- */

static void test_full_host(void **state)
{
	struct space *s = *state;
	s->m->fail_kind = COW_IO_RESIZE;
	s->m->fail_error = -ENOSPC;
	s->m->fail_more = 1000;
	/* what lies within the file can be had; then nothing more */
	uint64_t had = 0;
	int ret = 0;
	for (unsigned i = 0; i < 10 && !ret; i++) {
		ret = space_refill(s);
		had = space_reserved(&s->r);
		assert_true(had * CLUSTER <= memory_size(s->m));
	}
	assert_int_equal(ret, -ENOSPC);
	assert_false(cow_core_is_failed(&s->core));
	assert_false(s->alloc.busy || s->r.refilling);
	s->m->fail_error = 0;
	s->m->fail_more = 0;
	assert_int_equal(space_refill(s), 0);
	assert_true(space_reserved(&s->r) > had);
	/* nothing that was counted is lost: it is reserved, spare, or in the quarantine's ring */
	space_run(s);
	assert_int_equal(space_write_back(s), 0);
	uint64_t counted = 0, spare = 0;
	for (uint64_t c = 0; c < memory_size(s->m) / CLUSTER; c++)
		counted += space_refcount(s, c) != 0;
	for (unsigned i = 0; i < s->alloc.nr_spare; i++)
		spare += s->alloc.spare[i].nr;
	/* header, refcount table and block, L1 */
	assert_int_equal(counted, space_reserved(&s->r) + spare + 4);
}

/* Metadata that counts 0 is not given out. */
static void test_metadata_is_not_taken(void **state)
{
	struct space *s = *state;
	uint64_t l1 = s->core.header.l1_off / CLUSTER, block = cow_table_get(&s->meta.reftable, 0);
	cow_refcount_set(s->m->bytes + block, s->core.g.refcount_order, l1, 0);
	s->alloc.tail = l1;
	assert_int_equal(space_refill(s), -EIO);
	assert_non_null(strstr(cow_core_failure(&s->core), "live metadata has refcount 0"));
	assert_int_equal(space_reserved(&s->r), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_first, space_setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_baton, space_setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_recycled_is_punched, space_setup,
						space_teardown),
		cmocka_unit_test_setup_teardown(test_a_failed_punch_is_no_hole, space_setup,
						space_teardown),
		cmocka_unit_test_setup_teardown(test_a_change_leaves_no_holes, space_setup,
						space_teardown),
		cmocka_unit_test_setup_teardown(test_blocked_is_not_taken, space_setup,
						space_teardown),
		cmocka_unit_test_setup_teardown(test_full_host, space_setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_metadata_is_not_taken, space_setup,
						space_teardown),
	};
	return cmocka_run_group_tests_name("refill", tests, NULL, NULL);
}
