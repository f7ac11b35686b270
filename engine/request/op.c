/* SPDX-License-Identifier: MIT */
/* What all kinds of requests share: start, end, host I/Os, bounce buffers, epochs. */
#include "engine/request/op.h"
#include "engine/request/queue.h"

#include <errno.h>
#include <string.h>

static void give_bounce(struct cow_queue *queue, uint8_t *bounce)
{
	queue->bounces[queue->nr_bounces++] = bounce;
	cow_waitlist_wake(&queue->bounce_waiters, 0);
}

/* ---- host I/O ---- */

void cow_op_piece_done(struct cow_io *io)
{
	struct cow_piece *piece = (struct cow_piece *)io;
	int result = io->result;
	if (piece->crypt && !result)
		result = cow_crypt_decrypt(piece->crypt, piece->crypt_off, piece->crypt_buf,
					   piece->crypt_bytes);
	piece->crypt = NULL;
	if (piece->bounce)
		give_bounce(piece->op->queue, piece->bounce);
	piece->bounce = NULL;
	piece->busy = false;
	cow_task_io_done(&piece->op->task, result);
}

struct cow_piece *cow_op_piece(struct cow_op *op)
{
	for (unsigned i = 0; i < cow_op_image(op)->core.limits.pieces; i++)
		if (!op->pieces[i].busy)
			return &op->pieces[i];
	return NULL;
}

void cow_op_submit_piece(struct cow_op *op, struct cow_piece *piece)
{
	piece->busy = true;
	op->task.pending++;
	cow_loop_submit(op->task.loop, &piece->io);
}

void cow_op_submit_rw(struct cow_op *op, struct cow_piece *piece, enum cow_io_kind kind,
		      struct cow_file *file, uint64_t host_off, void *buf, uint64_t bytes)
{
	cow_io_prep_rw(&piece->io, kind, file, host_off, buf, bytes, cow_op_piece_done);
	cow_op_submit_piece(op, piece);
}

/* ---- bounce buffers ---- */

bool cow_op_get_bounce(struct cow_op *op)
{
	struct cow_queue *queue = op->queue;
	if (op->bounce)
		return true;
	if (!queue->nr_bounces) {
		cow_waitlist_park(&queue->bounce_waiters, &op->task);
		return false;
	}
	op->bounce = queue->bounces[--queue->nr_bounces];
	return true;
}

void cow_op_put_bounce(struct cow_op *op)
{
	if (!op->bounce)
		return;
	give_bounce(op->queue, op->bounce);
	op->bounce = NULL;
}

/* ---- epochs ---- */

void cow_op_enter_epoch(struct cow_op *op)
{
	if (op->in_epoch)
		return;
	op->epoch = cow_epoch_enter(&cow_op_image(op)->epoch, op->queue->idx);
	op->in_epoch = true;
}

static void leave_epoch(struct cow_op *op)
{
	if (!op->in_epoch)
		return;
	cow_epoch_leave(&cow_op_image(op)->epoch, op->queue->idx, op->epoch);
	op->in_epoch = false;
	cow_quarantine_op_ended(&cow_op_image(op)->quarantine);
}

enum cow_next cow_op_room_to_free(struct cow_op *op, unsigned least, unsigned most)
{
	struct cow_quarantine *q = &cow_op_image(op)->quarantine;
	cow_assert(!op->claim.held);
	cow_op_put_room(op);
	op->room = cow_quarantine_reserve(q, least, most);
	if (!op->room) {
		if (op->task.pending)
			return cow_task_wait_io(&op->task);
		leave_epoch(op);
		cow_quarantine_wait(q, least, &op->task);
		return COW_WAIT;
	}
	cow_op_enter_epoch(op);
	return COW_AGAIN;
}

bool cow_op_room_for_many(struct cow_op *op, unsigned most)
{
	cow_assert(!op->claim.held && !op->room);
	op->room = cow_quarantine_reserve_many(&cow_op_image(op)->quarantine, most);
	return op->room;
}

enum cow_next cow_op_wait_for_many(struct cow_op *op)
{
	if (op->task.pending)
		return cow_task_wait_io(&op->task);
	leave_epoch(op);
	cow_quarantine_wait_many(&cow_op_image(op)->quarantine, &op->task);
	return COW_WAIT;
}

void cow_op_put_room(struct cow_op *op)
{
	if (op->room)
		cow_quarantine_unreserve(&cow_op_image(op)->quarantine, op->room);
	op->room = 0;
}

/* ---- look-ups of writers ---- */

uint64_t cow_op_writable_table(struct cow_op *op, uint64_t off, enum cow_next *next)
{
	struct cow_image *image = cow_op_image(op);
	uint64_t idx = cow_l1_idx(&image->core.g, (struct cow_goff){ off });
	uint64_t l1 = cow_table_get(&image->meta.l1, idx);
	const char *fault = cow_l1_fault(&image->core.g, l1);
	if (fault) {
		cow_task_fail(&op->task, cow_core_corrupt(&image->core, op->task.loop,
							  image->meta.l1.off + idx * 8, fault));
		*next = COW_AGAIN;
		return 0;
	}
	if (l1 & QCOW2_COPIED)
		return l1 & QCOW2_OFFSET_MASK;
	op->table.l1_idx = idx;
	*next = cow_task_goto(&op->task, &cow_step_new_table);
	return 0;
}

struct cow_slot *cow_op_slot(struct cow_op *op, uint64_t table, uint64_t off)
{
	struct cow_image *image = cow_op_image(op);
	return cow_cache_get(&image->meta.l2,
			     table + cow_l2_slice_off(&image->core.g, (struct cow_goff){ off }),
			     &op->task);
}

enum cow_next cow_op_bad_entry(struct cow_op *op, const struct cow_entry *e, uint64_t table,
			       uint64_t off)
{
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->core.g;
	struct cow_goff goff = { off };
	uint64_t at = table + cow_l2_slice_off(g, goff) +
		      (uint64_t)cow_l2_slice_idx(g, goff) * g->entry_bytes;
	const char *rule = cow_entry_fault(g, (struct cow_l2_entry){ e->raw, e->subs });
	cow_task_fail(&op->task, cow_core_corrupt(&image->core, op->task.loop, at, rule));
	return COW_AGAIN;
}

/* ---- begin of writing ---- */

enum cow_next cow_op_begin_write(struct cow_op *op)
{
	struct cow_image *image = cow_op_image(op);
	if (!image->core.writable)
		cow_task_fail(&op->task, -EROFS);
	else if (cow_core_is_failed(&image->core))
		cow_task_fail(&op->task, -EIO);
	if (op->task.error)
		return COW_AGAIN;
	cow_tracking_mark(&image->tracking, op->off, op->end - op->off);
	if (atomic_load_explicit(&image->core.ready_for_write, memory_order_acquire))
		return COW_AGAIN;
	if (op->prepared) { /* the pass is through */
		atomic_store(&image->core.ready_for_write, true);
		return COW_AGAIN;
	}
	op->prepared = true;
	cow_core_prepare_write(&image->core, &op->task);
	return COW_WAIT;
}

/* ---- start and end ---- */

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
	cow_op_end_read(op, &op->reader);
	cow_inflight_drop(&cow_op_image(op)->inflight, &op->claim);
	leave_epoch(op);
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

static enum cow_next unwind(struct cow_task *task)
{
	if (task->pending)
		return cow_task_wait_io(task);
	return waits_for_freed(cow_op_of(task)) ? COW_WAIT : COW_END;
}

static void end(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	if (task->error == -EIO)
		cow_core_note_cut(&cow_op_image(op)->core, task->loop);
	let_go(op);
	op->active = false;
	atomic_fetch_sub(&op->queue->running, 1);
	op->done(op->ctx, task->error);
}

void cow_op_init(struct cow_op *op, struct cow_queue *queue, unsigned idx)
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
	if (op->kind != COW_OP_WRITE || mode == COW_DETECT_ZEROES_OFF ||
	    !all_zeros(op->buf, op->end - op->off))
		return;
	op->kind = COW_OP_WRITE_ZEROES;
	if (mode == COW_DETECT_ZEROES_ON)
		op->flags |= COW_OP_NOUNMAP;
}

static const struct cow_step *first_step(enum cow_op_kind kind)
{
	switch (kind) {
	case COW_OP_READ:
		return &cow_step_read;
	case COW_OP_WRITE:
		return &cow_step_write_begin;
	case COW_OP_FLUSH:
		return &cow_step_flush;
	default:
		return &cow_step_zero_begin;
	}
}

static void start_over(struct cow_op *op)
{
	op->freed_seen = cow_quarantine_released(&cow_op_image(op)->quarantine);
	op->cursor = op->off;
	op->limit = op->end;
	op->reader = (struct cow_reader){ .pos = op->off, .end = op->end, .buf = op->buf };
	op->copy.holds_host = false;
	op->table.holds_host = false;
	op->prepared = false;
	op->holds_packing = false;
	op->packing.plain_until = 0;
	op->punch_failed = false;
	op->no_punch = false;
	op->explicit_zeros = false;
}

/*
 * In while the image is not frozen. The count first, then the look: the freeze sets its flag first,
 * then looks at the count.
 */
static enum cow_next admit(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_freeze *f = &cow_op_image(op)->freeze;
	atomic_fetch_add(&op->queue->running, 1);
	if (!atomic_load(&f->frozen)) {
		cow_op_enter_epoch(op);
		if (atomic_load_explicit(&cow_op_image(op)->core.unreadable, memory_order_relaxed))
			cow_task_fail(task, -EIO);
		return cow_task_goto(task, first_step(op->kind));
	}
	atomic_fetch_sub(&op->queue->running, 1);
	cow_mutex_lock(&f->lock);
	bool park = atomic_load(&f->frozen);
	if (park)
		cow_waitlist_park(&f->parked, task);
	cow_mutex_unlock(&f->lock);
	return park ? COW_WAIT : COW_AGAIN;
}

/* As after the freeze: what the op found out before may be no longer true. */
static enum cow_next again(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	op->waits_for_freed = false;
	start_over(op);
	cow_op_enter_epoch(op);
	return cow_task_goto(task, first_step(op->kind));
}

static const struct cow_step step_unwind = { "drain after error", unwind };
static const struct cow_step step_again = { "begin again", again };
static const struct cow_step step_admit = { "admit", admit };

static bool valid(const struct cow_op *op, uint64_t length)
{
	uint64_t size = op->queue->image->core.g.size_bytes;
	if (op->kind == COW_OP_FLUSH)
		return true;
	return !((op->off | length) & 511) && op->off <= size && length <= size - op->off;
}

void cow_op_start(struct cow_op *op, uint64_t length)
{
	cow_assert(!op->active);
	op->active = true;
	op->end = op->off + length;
	if (!valid(op, length)) {
		op->active = false;
		op->done(op->ctx, -EINVAL);
		return;
	}
	if (op->kind != COW_OP_FLUSH && !length) {
		op->active = false;
		op->done(op->ctx, 0);
		return;
	}
	detect_zeroes(op);
	op->freed_until = 0;
	op->waits_for_freed = false;
	start_over(op);
	cow_task_start(&op->task, op->queue->loop, &step_admit);
}
