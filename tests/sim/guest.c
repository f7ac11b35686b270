/* SPDX-License-Identifier: MIT */
/* The guest: issues requests, compares what comes back with the model. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/buf.h"
#include "engine/request/inspect.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "tests/sim/run.h"
#include "tests/sim/second.h"

#define HANG_STEPS 1000000u

bool sim_guest_excused(const struct sim_run *run)
{
	return run->world.faults.nr_injected + run->world.faults.nr_full > run->injected_at_open;
}

bool sim_guest_may_leak(const struct sim_run *run)
{
	const struct sim_faults *f = &run->world.faults;
	return run->image_failed || (f->full && sim_guest_excused(run)) ||
	       run->script->config.block_device;
}

static bool is_writing(const struct sim_action *a)
{
	return a->kind == SIM_GUEST_WRITE || a->kind == SIM_DISCARD || a->kind == SIM_ZEROES;
}

static void judge_error(struct sim_run *run, const struct sim_op *op, int result)
{
	run->stats.failed_ops++;
	bool small_device = result == -ENOSPC && run->script->config.block_device;
	if (!sim_guest_excused(run) && !small_device)
		sim_fail("request failed with %d (%s) though nothing was wrong with the host; "
			 "image failure: %s",
			 result, strerror(-result),
			 cow_image_failure(run->image) ? cow_image_failure(run->image) : "none");
	if (result != -EIO && result != -ENOSPC && result != -EROFS)
		sim_fail("request failed with an odd error: %d (%s)", result, strerror(-result));
	if (op->action->kind == SIM_READ && result != -EIO)
		sim_fail("read failed with %d (%s)", result, strerror(-result));
	bool only_full = run->world.faults.nr_injected == 0;
	if (only_full && cow_image_failure(run->image))
		sim_fail("a full host failed the image: %s", cow_image_failure(run->image));
}

static void judge_read(struct sim_run *run, const struct sim_op *op)
{
	char text[700];
	if (!sim_model_read_ok(&run->model, op->start, op->action->offset / SIM_SECTOR,
			       op->action->length / SIM_SECTOR, op->buf, text, sizeof(text)))
		sim_fail("read: %s", text);
}

static void judge(struct sim_run *run, const struct sim_op *op, int result)
{
	const struct sim_action *a = op->action;
	if (result)
		judge_error(run, op, result);
	if (a->kind == SIM_READ && !result)
		judge_read(run, op);
	if (a->kind == SIM_FLUSH && !result)
		sim_model_flushed(&run->model, op->start);
	if (is_writing(a))
		sim_model_write_end(&run->model, op->start, a->offset / SIM_SECTOR,
				    a->length / SIM_SECTOR, !result && a->kind != SIM_DISCARD,
				    a->flags & SIM_FUA);
}

static void op_done(void *ctx, int result)
{
	struct sim_op *op = ctx;
	cow_assert(op->busy);
	if (!op->stale)
		judge(op->run, op, result);
	op->busy = false;
	free(op->buf);
	op->buf = NULL;
	free(op->base);
	op->base = NULL;
}

bool sim_guest_has_room(const struct sim_run *run, const struct sim_action *action)
{
	unsigned queue = action->queue % (unsigned)run->script->config.queues;
	for (unsigned i = 0; i < run->script->config.depth; i++)
		if (!run->ops[queue][i].busy)
			return !run->leaving[queue];
	return false;
}

static struct sim_op *idle_op(struct sim_run *run, unsigned queue, unsigned *idx)
{
	for (*idx = 0; *idx < run->script->config.depth; ++*idx)
		if (!run->ops[queue][*idx].busy)
			return &run->ops[queue][*idx];
	return NULL;
}

/* Waits for a free slot; NULL if power goes meanwhile. */
static struct sim_op *get_op(struct sim_run *run, unsigned queue, unsigned *idx)
{
	struct sim_op *op;
	while ((op = idle_op(run, queue, idx)) == NULL && !run->world.powered_off) {
		if (!sim_world_step(&run->world))
			sim_guest_check_hang(run);
		if (run->world.steps % 65536 == 0)
			sim_guest_check_hang(run);
	}
	return run->world.powered_off ? NULL : op;
}

static void begin(struct sim_run *run, struct sim_op *op, const struct sim_action *a)
{
	uint64_t sector = a->offset / SIM_SECTOR, nr = a->length / SIM_SECTOR, id = 0;
	memset(op, 0, sizeof(*op));
	op->run = run;
	op->action = a;
	op->busy = true;
	op->first_step = run->world.steps;
	if (a->kind == SIM_READ || a->kind == SIM_GUEST_WRITE) {
		op->buf = cow_buf_alloc(a->length);
		cow_assert(op->buf);
	}
	if (a->kind == SIM_GUEST_WRITE && !(a->flags & SIM_ZERO_DATA)) {
		id = ++run->next_id;
		sim_fill(op->buf, id, sector, nr);
	}
	if (op->buf && run->script->config.guest) {
		op->base = cow_buf_alloc(a->length);
		cow_assert(op->base);
		if (a->kind == SIM_READ) /* what does not get there must not look right */
			memset(op->buf, 0xc3, a->length);
		memory_guest_init(&op->guest, op->buf, op->base, a->length);
	}
	if (is_writing(a))
		op->start = sim_model_write_begin(&run->model, id, sector, nr);
	else
		op->start = sim_model_tick(&run->model);
}

void sim_guest_submit(struct sim_run *run, const struct sim_action *a)
{
	unsigned idx, queue = a->queue % (unsigned)run->script->config.queues;
	struct sim_op *op = get_op(run, queue, &idx);
	if (!op)
		return;
	begin(run, op, a);
	run->stats.ops++;
	run->world.hold_steps = a->flags & SIM_LATE ? 400 : 0;
	cow_loop_enter(&run->queue_loops[queue]->base);
	struct cow_queue *engine = sim_image_queue(run, queue);
	if (op->base)
		cow_queue_set_guest(engine, idx, &op->guest.guest);
	cow_queue_submit(engine, idx, (enum cow_op_kind)a->kind,
			 a->flags & (COW_OP_FUA | COW_OP_NOUNMAP), a->offset, a->length,
			 op->base ? op->base : op->buf, op_done, op);
	cow_loop_enter(NULL);
	run->world.hold_steps = 0;
}

bool sim_guest_busy(const struct sim_run *run)
{
	for (unsigned q = 0; q < SIM_MAX_QUEUES; q++)
		for (unsigned i = 0; i < SIM_MAX_DEPTH; i++)
			if (run->ops[q][i].busy)
				return true;
	return false;
}

static void print_line(void *ctx, const char *text)
{
	fprintf(stderr, "  %s\n", text);
}

/* Called when the world has come to rest, or now and then: nobody may be left waiting. */
void sim_guest_check_hang(struct sim_run *run)
{
	uint64_t oldest = UINT64_MAX;
	for (unsigned q = 0; q < SIM_MAX_QUEUES; q++)
		for (unsigned i = 0; i < SIM_MAX_DEPTH; i++)
			if (run->ops[q][i].busy && run->ops[q][i].first_step < oldest)
				oldest = run->ops[q][i].first_step;
	if (oldest == UINT64_MAX ||
	    (sim_world_step(&run->world) && run->world.steps - oldest < HANG_STEPS))
		return;
	for (unsigned q = 0; q < run->script->config.queues; q++)
		if (run->queues[q])
			cow_inspect_print(run->queues[q], print_line, NULL);
	sim_fail("requests hang%s",
		 run->world.powered_off ? " after the host failed for good" : "");
}

void sim_guest_abandon(struct sim_run *run)
{
	for (unsigned q = 0; q < SIM_MAX_QUEUES; q++)
		for (unsigned i = 0; i < SIM_MAX_DEPTH; i++)
			run->ops[q][i].stale = true;
}

void sim_guest_verify(struct sim_run *run)
{
	uint64_t size = run->script->config.size_bytes, piece = 256 << 10;
	uint8_t *buf = cow_buf_alloc(size < piece ? size : piece);
	char text[700];
	cow_assert(buf);
	for (uint64_t off = 0; off < size && !run->world.powered_off; off += piece) {
		uint64_t n = size - off < piece ? size - off : piece;
		uint64_t start = sim_model_tick(&run->model);
		int ret = cow_queue_do(sim_image_queue(run, 0), COW_OP_READ, 0, off, n, buf);
		if (run->world.powered_off || (ret && sim_guest_excused(run)))
			continue;
		if (ret)
			sim_fail("cannot read at %llu: %s", (unsigned long long)off,
				 strerror(-ret));
		if (!sim_model_read_ok(&run->model, start, off / SIM_SECTOR, n / SIM_SECTOR, buf,
				       text, sizeof(text)))
			sim_fail("verify: %s", text);
		sim_second_content(run, off, buf, n);
	}
	free(buf);
	sim_bitmap_judge(run);
}
