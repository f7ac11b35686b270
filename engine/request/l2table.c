/* SPDX-License-Identifier: MIT */
/*
 * An L2 table of our own for the guest range around op->cursor: a new one where there is none, a
 * copy where it is shared with a snapshot: claim the L1 entry -> look -> fill -> publish.
 *
 * Order on disk: refcounts | table | L1 entry. The table is written here before the L1 entry is set
 * in memory; a writeback pass has a barrier before its L1 writes. A shared old table is
 * unreferenced by the quarantine, after the L1 entry is durable.
 */
#include "engine/request/l2table.h"

#include "engine/base/math.h"
#include "engine/request/op.h"

static const struct cow_step step_look, step_fill, step_copy_read, step_copy_write, step_publish;

static enum cow_next l2table_claim(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	uint64_t idx = op->table.l1_idx;
	cow_assert(!op->bounce);			    /* as in copy.c */
	enum cow_next next = cow_op_room_to_free(op, 1, 1); /* before the claim: see op.h */
	if (next != COW_AGAIN || task->error)
		return next;
	if (!cow_claims_take(&image->claims, &op->claim, COW_CLAIM_L1, idx, idx + 1, task))
		return COW_WAIT;
	return cow_task_goto(task, &step_look);
}

static enum cow_next leave(struct cow_op *op)
{
	cow_op_put_room(op);
	cow_claims_drop(&cow_op_image(op)->claims, &op->claim);
	return cow_task_goto(&op->task, op->map);
}

/* What each step behind the claim stands on: nobody else makes this table. */
static void stand_on_claim(const struct cow_op *op)
{
	cow_assert(op->active && op->in_epoch && op->room);
	cow_assert(op->claim.held && op->claim.space == COW_CLAIM_L1);
	cow_assert(op->claim.start == op->table.l1_idx);
}

static enum cow_next l2table_look(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	struct cow_new_table *t = &op->table;
	stand_on_claim(op);
	cow_assert(!op->table.holds_host);
	t->old = cow_table_get(&image->meta.l1, t->l1_idx);
	if (t->old & QCOW2_COPIED)
		return leave(op); /* somebody else made it */
	if (!cow_reserve_take(&op->queue->reserve, 1, &t->host, &t->zero, task))
		return COW_WAIT;
	t->holds_host = true;
	t->done = 0;
	if (!cow_cache_drop(&image->meta.l2, t->host.v, image->core.g.cluster_bytes)) {
		cow_task_fail(task, cow_core_corrupt(&image->core, task->loop, t->host.v,
						     "a live L2 table has refcount 0"));
		return COW_AGAIN;
	}
	return cow_task_goto(task, &step_fill);
}

static enum cow_next l2table_fill(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	struct cow_new_table *t = &op->table;
	stand_on_claim(op);
	cow_assert(op->table.holds_host);
	if (t->old) {
		if (!cow_op_get_bounce(op))
			return COW_WAIT;
		return cow_task_goto(task, &step_copy_read);
	}
	/*
	 * Written even if it is a hole already: so a full host fails this request, and never a
	 * FLUSH that comes to write entries.
	 */
	struct cow_piece *piece = cow_op_piece(op);
	if (!piece)
		return cow_task_wait_io(task);
	t->done = image->core.g.cluster_bytes;
	cow_op_submit_rw(op, piece, COW_IO_WRITE, image->core.file, t->host.v, image->core.zeros,
			 image->core.g.cluster_bytes);
	return cow_task_goto(task, &step_copy_write);
}

static uint64_t chunk_bytes(const struct cow_op *op)
{
	return cow_min(COW_BOUNCE_BYTES, op->queue->image->core.g.cluster_bytes - op->table.done);
}

/* Shared tables are never changed in place, so what the file holds is the table. */
static enum cow_next l2table_read_old(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	struct cow_new_table *t = &op->table;
	stand_on_claim(op);
	cow_assert(op->table.holds_host);
	struct cow_piece *piece = cow_op_piece(op);
	if (!piece)
		return cow_task_wait_io(task);
	t->writing = false;
	cow_op_submit_rw(op, piece, COW_IO_READ, image->core.file,
			 (t->old & QCOW2_OFFSET_MASK) + t->done, op->bounce, chunk_bytes(op));
	return cow_task_goto(task, &step_copy_write);
}

static enum cow_next l2table_write(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	struct cow_new_table *t = &op->table;
	stand_on_claim(op);
	cow_assert(op->table.holds_host);
	if (task->pending)
		return cow_task_wait_io(task);
	if (t->done == image->core.g.cluster_bytes) {
		cow_op_put_bounce(op);
		return cow_task_goto(task, &step_publish);
	}
	if (t->writing) { /* this chunk is through */
		t->done += chunk_bytes(op);
		return t->done == image->core.g.cluster_bytes
			       ? COW_AGAIN
			       : cow_task_goto(task, &step_copy_read);
	}
	t->writing = true;
	cow_op_submit_rw(op, cow_op_piece(op), COW_IO_WRITE, image->core.file, t->host.v + t->done,
			 op->bounce, chunk_bytes(op));
	return cow_task_wait_io(task);
}

static enum cow_next l2table_publish(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	struct cow_new_table *t = &op->table;
	stand_on_claim(op);
	cow_assert(op->table.holds_host);
	if (!cow_table_may_set(&image->meta.l1, t->l1_idx, task))
		return COW_WAIT;
	cow_overlap_add(&image->meta, t->host.v);
	cow_table_set(&image->meta.l1, t->l1_idx, t->host.v | QCOW2_COPIED);
	t->holds_host = false;
	if (t->old)
		cow_quarantine_add(&image->quarantine,
				   (t->old & QCOW2_OFFSET_MASK) >> image->core.g.cluster_bits, 1);
	cow_quarantine_kick(&image->quarantine, task->loop);
	return leave(op);
}

const struct cow_step cow_l2table_step = { "l2 table: claim", l2table_claim };
static const struct cow_step step_look = { "l2 table: look", l2table_look };
static const struct cow_step step_fill = { "l2 table: fill", l2table_fill };
static const struct cow_step step_copy_read = { "l2 table: read old", l2table_read_old };
static const struct cow_step step_copy_write = { "l2 table: write", l2table_write };
static const struct cow_step step_publish = { "l2 table: publish", l2table_publish };
