/* SPDX-License-Identifier: MIT */
/* What all kinds of requests share: host I/Os, bounce buffers, epochs, the begin of writing. */
#include "engine/request/op.h"

#include <errno.h>

#include "engine/loop/guest.h"

static void give_bounce(struct cow_queue *queue, uint8_t *bounce)
{
	cow_assert(queue->nr_bounces < queue->all_bounces);
	queue->bounces[queue->nr_bounces++] = bounce;
	cow_waitlist_wake(&queue->bounce_waiters, 0);
}

/* ---- host I/O ---- */

static int decrypt(struct cow_piece *piece)
{
	int ret = cow_crypt_decrypt(piece->crypt, piece->crypt_off, piece->crypt_buf,
				    piece->crypt_bytes);
	return ret ? ret : cow_op_store(piece->op, piece->crypt_buf, piece->crypt_bytes);
}

void cow_op_piece_done(struct cow_io *io)
{
	struct cow_piece *piece = (struct cow_piece *)io;
	int result = io->result;
	if (piece->crypt && !result)
		result = decrypt(piece);
	piece->crypt = NULL;
	if (piece->bounce)
		give_bounce(piece->op->queue, piece->bounce);
	piece->bounce = NULL;
	piece->busy = false;
	cow_task_io_done(&piece->op->task, result);
}

struct cow_piece *cow_op_further_piece(struct cow_op *op)
{
	for (unsigned i = 1; i < cow_op_image(op)->core.limits.pieces; i++)
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

void cow_op_submit_data(struct cow_op *op, struct cow_piece *piece, struct cow_file *file,
			uint64_t host_off, void *buf, uint64_t bytes)
{
	enum cow_io_kind kind = op->kind == COW_OP_READ ? COW_IO_READ : COW_IO_WRITE;
	cow_assert(op->guest && (op->kind == COW_OP_READ || op->kind == COW_OP_WRITE));
	cow_io_prep_rw(&piece->io, kind, file, host_off, buf, bytes, cow_op_piece_done);
	piece->io.guest = op->guest;
	cow_op_submit_piece(op, piece);
}

int cow_op_fetch(struct cow_op *op)
{
	cow_assert(op->kind == COW_OP_WRITE);
	int ret = op->guest ? op->guest->fetch(op->guest, 0, op->end - op->off) : 0;
	if (!ret)
		op->guest = NULL;
	return ret;
}

int cow_op_store(struct cow_op *op, const uint8_t *buf, uint64_t bytes)
{
	if (!op->guest || op->kind != COW_OP_READ)
		return 0;
	return op->guest->store(op->guest, (uint64_t)(buf - op->guest->base), bytes);
}

/* ---- bounce buffers ---- */

bool cow_op_get_bounce(struct cow_op *op)
{
	struct cow_queue *queue = op->queue;
	if (op->bounce)
		return true;
	if (!queue->nr_bounces) {
		cow_waitlist_park(&queue->bounce_waiters, &op->task, "a bounce buffer");
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

void cow_op_leave_epoch(struct cow_op *op)
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
		cow_op_leave_epoch(op);
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
	cow_op_leave_epoch(op);
	cow_quarantine_wait_many(&cow_op_image(op)->quarantine, &op->task);
	return COW_WAIT;
}

void cow_op_put_room(struct cow_op *op)
{
	if (op->room)
		cow_quarantine_unreserve(&cow_op_image(op)->quarantine, op->room);
	op->room = 0;
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
