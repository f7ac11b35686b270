/* SPDX-License-Identifier: MIT */
/* Start and end of requests of all kinds. */
#include "engine/request/start.h"

#include <errno.h>
#include <string.h>

#include "engine/base/full.h"
#include "engine/request/flush.h"
#include "engine/request/pack.h"
#include "engine/request/read.h"
#include "engine/request/reader.h"
#include "engine/request/kind.h"
#include "engine/request/write.h"
#include "engine/request/zero.h"

static const struct cow_step step_unwind, step_again;

static void give_back_hosts(struct cow_op *op)
{
	struct cow_reserve *reserve = &op->queue->reserve;
	unsigned bits = cow_op_image(op)->core.g.cluster_bits;
	if (op->copy.holds_host)
		cow_reserve_return(reserve, op->copy.host,
				   (uint32_t)((op->copy.end - op->copy.start) >> bits));
	if (op->table.holds_host)
		cow_reserve_return(reserve, op->table.host, 1);
	op->copy.holds_host = false;
	op->table.holds_host = false;
	cow_pack_give_back(op);
	cow_packer_put(op);
}

/* All that the op holds. Nothing of it is in flight. */
static void let_go(struct cow_op *op)
{
	give_back_hosts(op);
	cow_op_put_room(op);
	cow_op_put_bounce(op);
	cow_reader_end(op, &op->reader);
	cow_claims_drop(&cow_op_image(op)->claims, &op->claim);
	cow_op_leave_epoch(op);
}

/*
 * A full host: clusters that the guest has freed may be on their way back. The op lets go of
 * everything, so that the release cannot wait for it, and begins again when some are there.
 */
static bool waits_for_freed(struct cow_op *op)
{
	if (op->task.error != -ENOSPC || op->kind == COW_OP_READ || op->kind == COW_OP_FLUSH)
		return false;
	if (op->waits_for_freed) /* and the release met the full host too */
		return false;
	let_go(op);
	op->task.error = 0;
	op->task.step = &step_again;
	op->waits_for_freed = true;
	if (cow_quarantine_wait_freed(&cow_op_image(op)->quarantine, &op->freed_until,
				      op->freed_seen, &op->task))
		return true;
	op->task.error = -ENOSPC;
	return false;
}

static enum cow_next drain_after_error(struct cow_task *task)
{
	if (task->pending)
		return cow_task_wait_io(task);
	task->error = cow_full_fold(task->error);
	return waits_for_freed(cow_op_of(task)) ? COW_WAIT : COW_END;
}

static void end(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	if (task->error == -EIO)
		cow_core_note_cut(&cow_op_image(op)->core, task->loop);
	let_go(op);
	op->active = false;
	op->guest = NULL;
	cow_gate_leave(&op->queue->running);
	op->done(op->ctx, task->error);
}

void cow_start_init(struct cow_op *op, struct cow_queue *queue, unsigned idx)
{
	memset(op, 0, sizeof(*op));
	op->queue = queue;
	op->idx = idx;
	cow_task_init(&op->task, &step_unwind, end);
	for (unsigned i = 0; i < COW_OP_PIECES; i++)
		op->pieces[i].op = op;
}

/* Eight words at a time; most data differs at once. */
static bool all_zeros(const uint8_t *buf, uint64_t bytes)
{
	return buf[0] == 0 && !memcmp(buf, buf + 1, bytes - 1);
}

static void detect_zeroes(struct cow_op *op)
{
	enum cow_detect_zeroes mode = cow_op_image(op)->detect_zeroes;
	if (op->kind != COW_OP_WRITE || mode == COW_DETECT_ZEROES_OFF)
		return;
	/* It is fetched again, or fails, if this fails. */
	if (cow_op_fetch(op) || !all_zeros(op->buf, op->end - op->off))
		return;
	op->kind = COW_OP_WRITE_ZEROES;
	if (mode == COW_DETECT_ZEROES_ON)
		op->flags |= COW_OP_NOUNMAP;
}

static const struct cow_step *first_step(enum cow_op_kind kind)
{
	switch (kind) {
	case COW_OP_READ:
		return &cow_read_step;
	case COW_OP_WRITE:
		return &cow_write_step_begin;
	case COW_OP_FLUSH:
		return &cow_flush_step;
	default:
		return &cow_zero_step;
	}
}

static void start_over(struct cow_op *op)
{
	op->freed_seen = cow_quarantine_released(&cow_op_image(op)->quarantine);
	op->cursor = op->off;
	op->limit = op->end;
	cow_reader_begin(&op->reader, op->off, op->end, op->buf);
	op->copy.holds_host = false;
	op->table.holds_host = false;
	op->prepared = false;
	op->holds_packing = false;
	op->packing.plain_until = 0;
	op->punch_failed = false;
	op->no_punch = false;
	op->explicit_zeros = false;
}

/* Asked behind the gate: the disk may have become smaller while the op was on its way there. */
static bool fits(const struct cow_op *op)
{
	return op->kind == COW_OP_FLUSH || op->end <= cow_core_size_bytes(&cow_op_image(op)->core);
}

static enum cow_next admit(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_gate *gate = &cow_op_image(op)->gate;
	if (cow_gate_enter(gate, &op->queue->running)) {
		cow_op_enter_epoch(op);
		if (atomic_load_explicit(&cow_op_image(op)->core.unreadable, memory_order_relaxed))
			cow_task_fail(task, -EIO);
		if (!fits(op))
			cow_task_fail(task, -EINVAL);
		return cow_task_goto(task, first_step(op->kind));
	}
	return cow_gate_park(gate, task) ? COW_WAIT : COW_AGAIN;
}

/* As after the freeze: what the op found out before may be no longer true. */
static enum cow_next begin_again(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	op->waits_for_freed = false;
	start_over(op);
	cow_op_enter_epoch(op);
	return cow_task_goto(task, first_step(op->kind));
}

static const struct cow_step step_unwind = { "drain after error", drain_after_error };
static const struct cow_step step_again = { "begin again", begin_again };
static const struct cow_step step_admit = { "admit", admit };

static bool valid(const struct cow_op *op, uint64_t length)
{
	return op->kind == COW_OP_FLUSH || (!((op->off | length) & 511) && op->end >= op->off);
}

void cow_start_request(struct cow_op *op, uint64_t length)
{
	cow_assert(!op->active);
	op->active = true;
	op->end = op->off + length;
	if (!valid(op, length)) {
		op->active = false;
		op->guest = NULL;
		op->done(op->ctx, -EINVAL);
		return;
	}
	if (op->kind != COW_OP_FLUSH && !length) {
		op->active = false;
		op->guest = NULL;
		op->done(op->ctx, 0);
		return;
	}
	detect_zeroes(op);
	op->freed_until = 0;
	op->waits_for_freed = false;
	start_over(op);
	cow_task_start(&op->task, op->queue->loop, &step_admit);
}
