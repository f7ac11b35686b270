/* SPDX-License-Identifier: MIT */
#include "tests/sim/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"

static const char *const kind_names[] = { "read", "write", "sync", "punch", "resize", "timer" };

static void trace(const struct sim_loop *loop, const char *what, const struct sim_pending *p)
{
	const struct sim_world *w = loop->world;
	if (!w->trace)
		return;
	unsigned idx = 0;
	while (w->loops[idx] != loop)
		idx++;
	fprintf(stderr, "%8llu loop %u %s %s %s off=%#llx len=%#llx result=%lld\n",
		(unsigned long long)w->steps, idx, what, kind_names[p->io->kind],
		p->io->file ? p->io->file->path : "", (unsigned long long)p->io->offset,
		(unsigned long long)p->io->length, (long long)p->result);
}

/* ---- the loop's body ---- */

static struct sim_loop *sim_of(struct cow_loop *loop)
{
	return (struct sim_loop *)loop;
}

/* What is read too early must not look right. */
static void spoil(struct cow_io *io)
{
	for (unsigned i = 0; i < io->nr_vec; i++)
		memset(memory_place(io, i), 0xa5, io->vec[i].iov_len);
}

static void loop_start(struct cow_loop *base, struct cow_io *io)
{
	struct sim_loop *loop = sim_of(base);
	struct sim_world *world = loop->world;
	if (loop->gone)
		sim_fail("a host operation is started on a loop that is gone");
	if (loop->nr_pending == loop->max_pending) {
		loop->max_pending = loop->max_pending * 2 + 16;
		loop->pending = realloc(loop->pending, loop->max_pending * sizeof(*loop->pending));
		cow_assert(loop->pending);
	}
	struct sim_pending *p = calloc(1, sizeof(*p));
	cow_assert(p);
	p->io = io;
	if (io->kind == COW_IO_TIMER)
		p->due_ns = world->now_ns + io->offset;
	else if (io->kind == COW_IO_SYNC)
		p->mark = memory_disk_mark(&world->disk);
	else if (io->kind == COW_IO_WRITE)
		p->checksum = sim_checksum(io);
	else if (io->kind == COW_IO_READ)
		spoil(io);
	if (world->hold_steps && (io->kind == COW_IO_READ || io->kind == COW_IO_WRITE)) {
		p->held_until = world->steps + world->hold_steps / 2 +
				sim_below(&world->random, world->hold_steps);
	} else if (sim_chance(&world->random, world->hold_percent)) {
		bool long_hold = sim_chance(&world->random, world->hold_long_percent);
		p->held_until = world->steps + sim_below(&world->random, long_hold ? 20000 : 1000);
	}
	loop->pending[loop->nr_pending++] = p;
	trace(loop, "start", p);
}

static void deliver(struct sim_loop *loop, unsigned idx)
{
	struct sim_pending *p = loop->pending[idx];
	struct cow_io *io = p->io;
	int64_t result = p->result;
	trace(loop, "done ", p);
	loop->pending[idx] = loop->pending[--loop->nr_pending];
	if (io->kind != COW_IO_TIMER && io->kind != COW_IO_READ && io->kind != COW_IO_SYNC)
		memory_file_delivered(memory_file_of(io->file), p);
	free(p);
	cow_io_raw_done(io, result);
}

static bool has_executed(const struct sim_loop *loop)
{
	for (unsigned i = 0; i < loop->nr_pending; i++)
		if (loop->pending[i]->executed)
			return true;
	return false;
}

static bool has_event(const struct sim_loop *loop)
{
	return loop->woken || loop->base.ready_head || has_executed(loop);
}

/* Each executed operation with a good chance, from a random place on. */
static void deliver_some(struct sim_loop *loop)
{
	unsigned nr = loop->nr_pending;
	unsigned at = nr ? (unsigned)sim_below(&loop->world->random, nr) : 0;
	for (unsigned tries = nr; tries && loop->nr_pending; tries--, at++) {
		at %= loop->nr_pending;
		if (loop->pending[at]->executed && sim_chance(&loop->world->random, 70))
			deliver(loop, at);
	}
}

static int loop_drain(struct cow_loop *base, bool wait)
{
	struct sim_loop *loop = sim_of(base);
	bool outer = loop->running; /* a blocking call waits on it, further out */
	cow_assert(!outer || !wait);
	loop->running = true;
	loop->ran_within = outer;
	while (wait && !loop->ran_within && !has_event(loop))
		/* on_step may have run the others, and so brought what we wait for */
		if (!sim_world_step(loop->world) && !loop->ran_within && !has_event(loop))
			sim_fail("a blocking call waits for something that will never happen");
	loop->running = outer;
	loop->woken = false;
	deliver_some(loop);
	return 0;
}

static void loop_wake(struct cow_loop *base)
{
	if (sim_of(base)->gone)
		sim_fail("a message to a loop that is gone: a task was left there");
	sim_of(base)->woken = true;
}

static uint64_t loop_now(struct cow_loop *base)
{
	return sim_of(base)->world->now_ns;
}

static void loop_free(struct cow_loop *base)
{
	struct sim_loop *loop = sim_of(base);
	for (unsigned i = 0; i < loop->nr_pending; i++)
		free(loop->pending[i]);
	free(loop->pending);
	free(loop);
}

static const struct cow_loop_ops loop_ops = {
	.start = loop_start,
	.drain = loop_drain,
	.wake = loop_wake,
	.now = loop_now,
	.free = loop_free,
};

struct sim_loop *sim_loop_new(struct sim_world *world)
{
	struct sim_loop *loop = calloc(1, sizeof(*loop));
	cow_assert(loop && world->nr_loops < SIM_MAX_LOOPS);
	cow_loop_init(&loop->base, &loop_ops);
	loop->world = world;
	world->loops[world->nr_loops++] = loop;
	return loop;
}

void sim_loop_leave(struct sim_loop *loop)
{
	if (loop->nr_pending || loop->base.ready_head || atomic_load(&loop->base.inbox))
		sim_fail("something is left on a loop that goes: %u host operations, %s",
			 loop->nr_pending,
			 loop->base.ready_head ? "messages to be run" : "messages");
	loop->gone = true;
}

void sim_loop_come(struct sim_loop *loop)
{
	loop->gone = false;
	loop->woken = false;
}

/* ---- the scheduler ---- */

static bool is_timer(const struct sim_pending *p)
{
	return p->io->kind == COW_IO_TIMER;
}

static void fire_timers(struct sim_world *world)
{
	for (unsigned l = 0; l < world->nr_loops; l++) {
		struct sim_loop *loop = world->loops[l];
		for (unsigned i = 0; i < loop->nr_pending; i++)
			if (is_timer(loop->pending[i]) && loop->pending[i]->due_ns <= world->now_ns)
				loop->pending[i]->executed = true;
	}
}

/* Picks one operation to execute, a held one only if `held`. Reservoir sampling over all loops. */
static struct sim_pending *pick_operation(struct sim_world *world, bool held)
{
	struct sim_pending *choice = NULL;
	unsigned seen = 0;
	for (unsigned l = 0; l < world->nr_loops; l++) {
		struct sim_loop *loop = world->loops[l];
		for (unsigned i = 0; i < loop->nr_pending; i++) {
			struct sim_pending *p = loop->pending[i];
			if (p->executed || is_timer(p) || (!held && p->held_until > world->steps))
				continue;
			if (!sim_below(&world->random, ++seen))
				choice = p;
		}
	}
	return choice;
}

/*
 * Blocking calls lie on one stack here, but not in a process: what runs on the loop of one further
 * out goes on while one further in waits, perhaps for just that. That call itself has to wait for
 * the inner one's end.
 */
static struct sim_loop *pick_loop(struct sim_world *world)
{
	struct sim_loop *choice = NULL;
	unsigned seen = 0;
	for (unsigned l = 0; l < world->nr_loops; l++) {
		struct sim_loop *loop = world->loops[l];
		if (!has_event(loop))
			continue;
		if (l == world->lazy_loop && seen && !sim_chance(&world->random, 5))
			continue;
		if (!sim_below(&world->random, ++seen))
			choice = loop;
	}
	return choice;
}

static bool jump_to_timer(struct sim_world *world)
{
	uint64_t next = UINT64_MAX;
	for (unsigned l = 0; l < world->nr_loops; l++) {
		struct sim_loop *loop = world->loops[l];
		for (unsigned i = 0; i < loop->nr_pending; i++)
			if (is_timer(loop->pending[i]) && loop->pending[i]->due_ns < next)
				next = loop->pending[i]->due_ns;
	}
	if (next == UINT64_MAX)
		return false;
	if (next > world->now_ns)
		world->now_ns = next;
	fire_timers(world);
	return true;
}

bool sim_world_step(struct sim_world *world)
{
	world->steps++;
	world->now_ns += sim_below(&world->random, world->step_ns);
	world->on_step(world);
	if (world->steps % 16 == 0)
		fire_timers(world);
	struct sim_pending *p = pick_operation(world, false);
	struct sim_loop *loop = pick_loop(world);
	if (!p && !loop) { /* only what is held, and timers */
		if (sim_chance(&world->random, 70) && jump_to_timer(world))
			return true;
		p = pick_operation(world, true);
	}
	if (p && (!loop || sim_chance(&world->random, world->execute_percent)))
		sim_execute(world, p);
	else if (loop)
		COW_IGNORE(cow_loop_poll(&loop->base));
	else
		return jump_to_timer(world);
	return true;
}

/* ---- power ---- */

static void lose(struct sim_world *world)
{
	for (unsigned l = 0; l < world->nr_loops; l++) {
		struct sim_loop *loop = world->loops[l];
		for (unsigned i = 0; i < loop->nr_pending; i++)
			if (!loop->pending[i]->executed && !is_timer(loop->pending[i]))
				sim_execute_part(world, loop->pending[i]);
	}
	if (memory_disk_in_doubt(&world->disk))
		world->crash_kind = MEMORY_CRASH_POWER;
	memory_disk_crash(&world->disk, world->crash_kind);
}

void sim_world_power_off(struct sim_world *world)
{
	cow_assert(!world->powered_off);
	if (!world->undecided)
		lose(world);
	world->powered_off = true;
	world->power_off_at = 0;
	world->power_off_sync = 0;
	world->power_off_header = 0;
	if (world->on_power_off)
		world->on_power_off(world);
	if (world->trace)
		fprintf(stderr, "%8llu power off\n", (unsigned long long)world->steps);
}

void sim_world_power_on(struct sim_world *world)
{
	for (unsigned l = 0; l < world->nr_loops; l++)
		for (unsigned i = 0; i < world->loops[l]->nr_pending; i++)
			if (!is_timer(world->loops[l]->pending[i]))
				sim_fail("a host operation outlived the image that started it");
	world->powered_off = false;
}

static uint64_t below(void *ctx, uint64_t n)
{
	struct sim_world *world = ctx;
	return sim_below(&world->random, n);
}

void sim_world_init(struct sim_world *world, uint64_t seed)
{
	memset(world, 0, sizeof(*world));
	memory_disk_init(&world->disk, SIM_MAX_FILE_BYTES);
	world->disk.volatile_cache = true;
	world->disk.direct = true;
	world->disk.below = below;
	world->disk.below_ctx = world;
	world->random.state = seed;
	world->lazy_loop = (unsigned)sim_below(&world->random, SIM_MAX_LOOPS * 2);
	/* what waits for some time (freed clusters) goes on in few steps, or in many */
	static const uint32_t paces[] = { 2000, 200000, 2000000, 20000000, 20000000 };
	world->step_ns = paces[sim_below(&world->random, 5)];
	world->hold_percent =
		1 + (unsigned)sim_below(&world->random, sim_chance(&world->random, 30) ? 20 : 5);
	world->hold_long_percent = (unsigned)sim_below(&world->random, 60);
	world->execute_percent = 20 + (unsigned)sim_below(&world->random, 70);
}

void sim_world_fini(struct sim_world *world)
{
	for (unsigned l = 0; l < world->nr_loops; l++)
		cow_loop_free(&world->loops[l]->base);
	memory_disk_fini(&world->disk);
}
