/* SPDX-License-Identifier: MIT */
/*
 * Threads that meet at a gate, at an epoch, at the release of freed clusters, at the refills' baton
 * and at a slice of metadata that is being written: in every order (interleave.h).
 * interleaved: engine/image/gate.c engine/meta/cache.c engine/space/epoch.c engine/space/quarantine.c
 * interleaved: engine/space/refill.c engine/space/release.c
 */
#include <stdio.h>

#include "engine/image/gate.h"
#include "tests/unit/space_fixture.h"

/* ---- the gate: a request and a change of the whole image ---- */

struct gate {
	struct memory_host *m;
	struct cow_gate gate;
	atomic_uint inside;
	struct cow_task request;
	bool in, over, together;
	bool changing; /* it was nobody's turn but the change's, or is */
	unsigned nr_parked, nr_changes;
};

static struct gate *gate_of(struct cow_task *task)
{
	return cow_container_of(task, struct gate, request);
}

static void look_around(struct gate *g)
{
	g->together |= g->in && g->changing;
	interleave_point(&g->in);
}

static enum cow_next come_in(struct cow_task *task)
{
	struct gate *g = gate_of(task);
	if (!cow_gate_enter(&g->gate, &g->inside)) {
		bool parked = cow_gate_park(&g->gate, task);
		g->nr_parked += parked;
		return parked ? COW_WAIT : COW_AGAIN;
	}
	g->in = true;
	look_around(g);
	look_around(g);
	g->in = false;
	cow_gate_leave(&g->inside);
	return COW_END;
}

static const struct cow_step step_come_in = { "test: come in", come_in };

static void request_over(struct cow_task *task)
{
	gate_of(task)->over = true;
}

static void gate_begin(void *ctx)
{
	struct gate *g = ctx;
	cow_gate_init(&g->gate);
	atomic_store(&g->gate.changing, true);
	atomic_store(&g->inside, 0);
	g->in = g->over = g->changing = false;
	cow_task_init(&g->request, &step_come_in, request_over);
}

static void gate_request(void *ctx)
{
	struct gate *g = ctx;
	cow_task_start(&g->request, &g->m->loop, &step_come_in);
}

/* One that looks but once whether somebody is inside. */
static void gate_change(void *ctx)
{
	struct gate *g = ctx;
	cow_gate_shut(&g->gate);
	if (!atomic_load(&g->inside)) {
		g->changing = true;
		look_around(g);
		look_around(g);
		g->changing = false;
		g->nr_changes++;
	}
	cow_gate_open(&g->gate);
}

/* Never both at once, and who was turned away is let in. */
static void gate_over(void *ctx)
{
	struct gate *g = ctx;
	assert_false(g->together);
	COW_IGNORE(cow_loop_poll(&g->m->loop));
	assert_true(g->over);
	assert_int_equal(atomic_load(&g->inside), 0);
	cow_mutex_fini(&g->gate.lock);
}

static void test_gate(void **state)
{
	struct gate g = { .m = memory_host_new() };
	struct interleave i = { .begin = gate_begin,
				.over = gate_over,
				.threads = { gate_request, gate_change },
				.ctx = &g,
				.switches = 4 };
	unsigned orders = interleave(&i);
	printf("gate: %u orders, %u changes, parked %u times\n", orders, g.nr_changes, g.nr_parked);
	assert_true(g.nr_parked && g.nr_changes && g.nr_changes < orders);
	memory_host_free(g.m);
}

/* ---- epochs: who reads a cluster, who frees it, who releases it ---- */

struct epochs {
	struct cow_epoch epoch;
	bool linked;	   /* the cluster, in the mapping */
	uint64_t freed_at; /* 0: not yet */
	bool released, used_again;
	unsigned nr_released, nr_waits;
};

static void epochs_begin(void *ctx)
{
	struct epochs *e = ctx;
	cow_epoch_init(&e->epoch);
	interleave_watch(&e->epoch.now, sizeof(e->epoch.now));
	interleave_watch(&e->epoch.slots[0], sizeof(e->epoch.slots[0]));
	interleave_watch(&e->linked, sizeof(e->linked));
	e->linked = true;
	e->freed_at = 0;
	e->released = e->used_again = false;
}

static void epochs_reader(void *ctx)
{
	struct epochs *e = ctx;
	uint64_t mine = cow_epoch_enter(&e->epoch, 0);
	if (e->linked) { /* it is read, which takes a while */
		interleave_point(&e->linked);
		e->used_again = e->released;
	}
	cow_epoch_leave(&e->epoch, 0, mine);
}

static void epochs_remover(void *ctx)
{
	struct epochs *e = ctx;
	e->linked = false;
	e->freed_at = cow_epoch_now(&e->epoch);
}

/* Something that was freed before, then what the other one has freed meanwhile. */
static void epochs_releaser(void *ctx)
{
	struct epochs *e = ctx;
	bool moved = cow_epoch_passed(&e->epoch, cow_epoch_now(&e->epoch));
	if (e->freed_at && cow_epoch_passed(&e->epoch, e->freed_at))
		e->released = true;
	e->nr_waits += !moved || (e->freed_at && !e->released);
	e->nr_released += e->released;
}

static void epochs_over(void *ctx)
{
	struct epochs *e = ctx;
	assert_false(e->used_again);
	assert_true(
		cow_epoch_passed(&e->epoch, e->freed_at)); /* nobody is left behind in an epoch */
}

static void test_epochs(void **state)
{
	struct epochs *e = calloc(1, sizeof(*e));
	struct interleave i = { .begin = epochs_begin,
				.over = epochs_over,
				.threads = { epochs_reader, epochs_remover, epochs_releaser },
				.ctx = e,
				.switches = 3 };
	unsigned orders = interleave(&i);
	printf("epochs: %u orders, %u released, %u had to wait\n", orders, e->nr_released,
	       e->nr_waits);
	assert_true(e->nr_released && e->nr_waits);
	free(e);
}

/* ---- the release, which waits for an epoch, and the last request in that ---- */

static void *new_space(void)
{
	void *state;
	assert_int_equal(space_setup(&state), 0);
	return state;
}

struct ending {
	struct space *s;
	uint64_t cluster, epoch;
	unsigned nr_parked;
};

/* A cluster was freed, its unlink is durable, and a request of before runs. */
static void ending_begin(void *ctx)
{
	struct ending *e = ctx;
	struct space *s = e->s = new_space();
	const struct cow_commit_watch *watch = &s->core.commit.watch;
	assert_int_equal(space_refill(s), 0);
	e->cluster = space_take(s, 1);
	assert_int_equal(space_write_back(s), 0);
	e->epoch = cow_epoch_enter(&s->epoch, 1);
	cow_quarantine_add(&s->q, e->cluster, 1);
	watch->captured(watch->ctx);
	watch->completed(watch->ctx, true);
	atomic_store(&s->q.hurry, true);
	interleave_watch(&s->q.lock, sizeof(s->q.lock));
	interleave_watch(&s->q.waiting_for_epoch, sizeof(s->q.waiting_for_epoch));
	interleave_watch(&s->epoch.slots[1], sizeof(s->epoch.slots[1]));
}

static void ending_release(void *ctx)
{
	struct space *s = ((struct ending *)ctx)->s;
	cow_loop_enter(&s->m->loop);
	cow_quarantine_kick(&s->q, &s->m->loop);
	COW_IGNORE(cow_loop_poll(&s->m->loop));
}

static void ending_request(void *ctx)
{
	struct ending *e = ctx;
	cow_epoch_leave(&e->s->epoch, 1, e->epoch);
	e->nr_parked += !cow_waitlist_empty(&e->s->q.epoch_waiter);
	cow_quarantine_op_ended(&e->s->q);
}

/* No other request will ever end. */
static void ending_over(void *ctx)
{
	struct ending *e = ctx;
	void *state = e->s;
	space_run(e->s);
	assert_int_equal(space_refcount(e->s, e->cluster), 0);
	assert_true(cow_quarantine_idle(&e->s->q));
	space_teardown(&state);
}

static void test_end_of_an_epoch(void **state)
{
	struct ending e = { .nr_parked = 0 };
	struct interleave i = { .begin = ending_begin,
				.over = ending_over,
				.threads = { ending_release, ending_request },
				.ctx = &e,
				.switches = 2 };
	unsigned orders = interleave(&i);
	printf("end of an epoch: %u orders, parked in %u\n", orders, e.nr_parked);
	assert_true(e.nr_parked && e.nr_parked < orders);
}

/* ---- the baton: refills of two queues ---- */

struct refills {
	struct space *s;
	struct memory_host *other; /* its loop is the second queue's thread's */
	struct cow_reserve second;
	struct waiter a, b;
	bool parked; /* one of them, once */
	unsigned nr_parked, nr_whole;
};

static enum cow_next wait_for_second(struct cow_task *task)
{
	struct refills *r = cow_container_of(task, struct refills, b.task);
	task->step = &step_waiter_ends;
	cow_reserve_wait(&r->second, task);
	return COW_WAIT;
}

static const struct cow_step step_wait_for_second = { "test: second", wait_for_second };

static void refills_begin(void *ctx)
{
	struct refills *r = ctx;
	r->s = new_space();
	r->a = r->b = (struct waiter){ .s = r->s };
	r->parked = false;
	cow_reserve_init(&r->second, &r->s->alloc);
	cow_refill_init(&r->second);
	cow_task_init(&r->a.task, &step_waiter_ends, waiter_over);
	cow_task_init(&r->b.task, &step_waiter_ends, waiter_over);
	interleave_watch(&r->s->alloc.lock, sizeof(r->s->alloc.lock));
}

/* The loop's turns, as many as a whole refill takes. */
static void refills_poll(struct refills *r, struct cow_loop *loop)
{
	for (unsigned i = 0; i < 10; i++) {
		COW_IGNORE(cow_loop_poll(loop));
		r->parked |= !cow_waitlist_empty(&r->s->alloc.waiters);
	}
}

static void refills_first(void *ctx)
{
	struct refills *r = ctx;
	cow_loop_enter(&r->s->m->loop);
	cow_task_start(&r->a.task, &r->s->m->loop, &step_wait_for_clusters);
	refills_poll(r, &r->s->m->loop);
}

static void refills_second(void *ctx)
{
	struct refills *r = ctx;
	cow_loop_enter(&r->other->loop);
	cow_task_start(&r->b.task, &r->other->loop, &step_wait_for_second);
	refills_poll(r, &r->other->loop);
}

/* Both come to an end, and nothing was given to both. */
static void refills_over(void *ctx)
{
	struct refills *r = ctx;
	struct space *s = r->s;
	void *state = s;
	r->nr_parked += r->parked;
	r->nr_whole += r->a.over && r->b.over;
	for (unsigned i = 0; i < 100; i++) {
		COW_IGNORE(cow_loop_poll(&s->m->loop));
		COW_IGNORE(cow_loop_poll(&r->other->loop));
	}
	assert_true(r->a.over && r->b.over && !s->alloc.busy);
	assert_int_equal(space_reserved(&s->r), 16);
	assert_int_equal(space_reserved(&r->second), 16);
	uint64_t x = s->r.extents[s->r.pos].cluster, y = r->second.extents[r->second.pos].cluster;
	assert_true(x + 16 <= y || y + 16 <= x);
	space_teardown(&state);
}

static void test_baton(void **state)
{
	struct refills r = { .other = memory_host_new() };
	struct interleave i = { .begin = refills_begin,
				.over = refills_over,
				.threads = { refills_first, refills_second },
				.ctx = &r,
				.switches = 3 };
	unsigned orders = interleave(&i);
	printf("baton: %u orders, parked in %u, both at an end in %u\n", orders, r.nr_parked,
	       r.nr_whole);
	assert_true(r.nr_parked && r.nr_parked < orders && r.nr_whole);
	memory_host_free(r.other);
}

/* ---- a slice that is changed while it is being written ---- */

struct slice {
	struct memory_host *m;
	struct cow_limits limits;
	struct cow_cache cache;
	struct cow_task task;
	unsigned nr_again;
};

static enum cow_next change_slice(struct cow_task *task)
{
	struct slice *c = cow_container_of(task, struct slice, task);
	struct cow_slot *slot = cow_cache_get(&c->cache, 0, task);
	if (!slot || !cow_cache_may_dirty(slot, task))
		return COW_WAIT;
	slot->data[0]++;
	cow_cache_put_dirty(slot);
	return COW_END;
}

static const struct cow_step step_change_slice = { "test: change", change_slice };

static void changed(struct cow_task *task)
{
}

static void slice_change(void *ctx)
{
	struct slice *c = ctx;
	cow_loop_enter(&c->m->loop);
	cow_task_init(&c->task, &step_waiter_ends, changed);
	cow_task_start(&c->task, &c->m->loop, &step_change_slice);
	COW_IGNORE(cow_loop_poll(&c->m->loop));
}

static void slice_pass(void *ctx)
{
	struct slice *c = ctx;
	uint8_t copy[4 * 512];
	struct cow_captured list[4];
	unsigned nr = cow_cache_capture(&c->cache, copy, list);
	if (nr)
		memory_put(c->m, 0, list[0].copy, 512);
	cow_cache_complete(&c->cache, list, nr, 0);
}

static void no_kick(void *ctx, struct cow_loop *loop)
{
}

/* It is loaded, and changed once. */
static void slice_begin(void *ctx)
{
	struct slice *c = ctx;
	const struct cow_cache_config config = { .file = &c->m->self.file,
						 .slice_bytes = 512,
						 .bytes = 8 * 512,
						 .limits = &c->limits,
						 .rank = COW_RANK_L2_SHARD,
						 .need_writeback = no_kick };
	assert_int_equal(cow_cache_init(&c->cache, &config), 0);
	memory_fill(c->m, 0, 0, 512);
	slice_change(c);
}

/* The last pass brings all of it to the file. */
static void slice_over(void *ctx)
{
	struct slice *c = ctx;
	c->nr_again += cow_cache_is_dirty(&c->cache);
	slice_pass(c);
	assert_int_equal(c->m->bytes[0], 2);
	assert_false(cow_cache_is_dirty(&c->cache));
	cow_cache_fini(&c->cache);
}

static void test_slice(void **state)
{
	struct slice c = { .m = memory_host_new() };
	struct interleave i = { .begin = slice_begin,
				.over = slice_over,
				.threads = { slice_pass, slice_change },
				.ctx = &c,
				.switches = 3 };
	cow_limits_init(&c.limits, NULL);
	unsigned orders = interleave(&i);
	printf("slice: %u orders, dirty again in %u\n", orders, c.nr_again);
	assert_true(c.nr_again && c.nr_again < orders);
	memory_host_free(c.m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gate),
		cmocka_unit_test(test_epochs),
		cmocka_unit_test(test_end_of_an_epoch),
		cmocka_unit_test(test_baton),
		cmocka_unit_test(test_slice),
	};
	return cmocka_run_group_tests_name("races", tests, NULL, NULL);
}
