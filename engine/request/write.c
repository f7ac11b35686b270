/* SPDX-License-Identifier: MIT */
/*
 * WRITE, and the explicit zeros of WRITE_ZEROES. Run by run from op->cursor to op->limit:
 *   in place        the cluster is ours alone (COPIED): submit, no claim
 *   fresh hole      nothing to copy and a cluster at hand that reads as zeros: the mapping is published in this very step, then the
 *                   data is submitted; later writers to the cluster need not wait
 *   anything else   copy.c, under a claim
 */
#include "engine/request/write.h"

#include "engine/base/math.h"
#include "engine/request/copy.h"
#include "engine/request/data.h"
#include "engine/request/flush.h"
#include "engine/request/mapping.h"
#include "engine/request/kind.h"

/* The request's bytes are looked at, or go elsewhere than to one place of the host. */
static bool fetch(struct cow_op *op)
{
	int ret = op->guest ? cow_op_fetch(op) : 0;
	if (ret)
		cow_task_fail(&op->task, ret);
	return !ret;
}

static enum cow_next write_begin(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	enum cow_next next = cow_op_begin_write(op);
	op->at_limit = &cow_write_step_drain;
	if (next == COW_AGAIN && !task->error && cow_data_is_encrypted(cow_op_image(op)))
		COW_IGNORE(fetch(op));
	if (next == COW_AGAIN && !task->error)
		task->step = &cow_write_step_map;
	return next;
}

static enum cow_next submit_data(struct cow_op *op, uint64_t host, uint64_t bytes)
{
	struct cow_piece *piece = cow_op_piece(op);
	if (op->guest)
		cow_op_submit_data(op, piece, cow_op_image(op)->core.data, host,
				   op->buf + (op->cursor - op->off), bytes);
	else
		cow_data_write_on(op, piece, host, op->cursor, cow_op_data(op, op->cursor), bytes);
	op->cursor += bytes;
	return COW_AGAIN;
}

static enum cow_next write_in_place(struct cow_op *op, struct cow_slot *slot,
				    const struct cow_run *run)
{
	struct cow_image *image = cow_op_image(op);
	uint64_t host = run->first.host.v + cow_in_cluster(&image->core.g, op->cursor);
	cow_cache_put(slot);
	if (cow_data_is_encrypted(image) && !cow_op_get_bounce(op))
		return COW_WAIT;
	const char *fault = cow_data_misplaced(image, host, run->bytes);
	if (fault) {
		cow_task_fail(&op->task,
			      cow_core_corrupt(&image->core, op->task.loop, host, fault));
		return COW_AGAIN;
	}
	return submit_data(op, host, run->bytes);
}

/* Does the run, which begins at off, read as zeros without a look at a backing file? */
static bool reads_zero(const struct cow_image *image, const struct cow_entry *e, uint64_t off)
{
	return cow_kind_is_zero(e->kind) ||
	       (e->kind == COW_UNALLOCATED && cow_nothing_below(image, off));
}

/*
 * Whole clusters that read as zeros and have no host cluster. A backing file may end between a
 * cluster's start and the cursor; subclusters next to the run may show it as well.
 */
static bool hole_possible(struct cow_op *op, const struct cow_run *run)
{
	const struct cow_image *image = cow_op_image(op);
	uint64_t start = cow_round_down(op->cursor, image->core.g.cluster_bytes);
	if (!cow_data_has_holes(image) || run->first.has_host ||
	    !reads_zero(image, &run->first, start))
		return false;
	if (image->core.g.extended_l2 && !cow_nothing_below(image, start))
		return false;
	return true;
}

/* Clusters that the run touches. */
static uint32_t run_clusters(const struct cow_op *op, const struct cow_run *run)
{
	const struct cow_geometry *g = &op->queue->image->core.g;
	return (uint32_t)((cow_in_cluster(g, op->cursor) + run->bytes + g->cluster_bytes - 1) >>
			  g->cluster_bits);
}

/* The slot is held. */
static enum cow_next write_hole(struct cow_op *op, struct cow_slot *slot, const struct cow_run *run)
{
	const struct cow_geometry *g = &cow_op_image(op)->core.g;
	uint64_t first = op->cursor >> g->cluster_bits, in = cow_in_cluster(g, op->cursor);
	uint32_t want = run_clusters(op, run);
	enum cow_next next;
	if (cow_mapping_is_claimed(op, slot, first, want, &next))
		return next;
	if (!cow_cache_may_dirty(slot, &op->task))
		return COW_WAIT;
	struct cow_hoff host;
	bool zero;
	uint32_t nr = cow_reserve_take(&op->queue->reserve, want, &host, &zero, &op->task);
	cow_assert(nr && zero); /* cow_reserve_peek() said so */
	uint32_t idx = cow_l2_slice_idx(g, (struct cow_goff){ op->cursor });
	for (uint32_t i = 0; i < nr; i++)
		cow_entry_set(g, slot->data, idx + i,
			      cow_entry_full(g, host.v + ((uint64_t)i << g->cluster_bits)));
	cow_cache_put_dirty(slot);
	return submit_data(op, host.v + in,
			   cow_min(run->bytes, ((uint64_t)nr << g->cluster_bits) - in));
}

static enum cow_next write_run(struct cow_op *op, struct cow_slot *slot, uint64_t table)
{
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->core.g;
	struct cow_run run =
		cow_map_run(g, slot->data, (struct cow_goff){ op->cursor },
			    cow_min(op->limit - op->cursor, cow_data_max_bytes(image)));
	if (run.first.kind == COW_NORMAL && run.first.copied)
		return write_in_place(op, slot, &run);
	if (op->kind == COW_OP_WRITE_ZEROES && reads_zero(image, &run.first, op->cursor)) {
		cow_cache_put(slot);
		op->cursor += run.bytes;
		return COW_AGAIN;
	}
	if (run.first.kind != COW_BAD && !(run.first.has_host && run.first.copied) &&
	    cow_pack_wanted(op)) {
		cow_cache_put(slot);
		return fetch(op) ? cow_task_goto(&op->task, &cow_pack_step) : COW_AGAIN;
	}
	bool hole = hole_possible(op, &run), zero = false;
	bool at_hand = hole && cow_reserve_peek(&op->queue->reserve, &zero);
	if (at_hand && zero)
		return write_hole(op, slot, &run);
	cow_cache_put(slot);
	/* Just because the reservation is being filled we do not write a whole cluster. */
	if (hole && !at_hand) {
		cow_reserve_wait(&op->queue->reserve, &op->task);
		return COW_WAIT;
	}
	if (run.first.kind == COW_BAD)
		return cow_mapping_bad_entry(op, &run.first, table, op->cursor);
	op->copy.start = cow_round_down(op->cursor, g->cluster_bytes);
	op->copy.end = op->copy.start + ((uint64_t)run_clusters(op, &run) << g->cluster_bits);
	op->copy.frees = cow_entry_is_replaced(&run.first);
	return fetch(op) ? cow_task_goto(&op->task, &cow_copy_step) : COW_AGAIN;
}

static enum cow_next write_map(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	enum cow_next next;
	cow_assert(!op->claim.held && !op->room); /* a copy or a table has let go of them */
	cow_assert(op->in_epoch);		  /* what is looked up is not released */
	op->map = &cow_write_step_map;
	if (op->cursor >= op->limit)
		return cow_task_goto(task, op->at_limit);
	if (!cow_op_piece(op))
		return cow_task_wait_io(task);
	uint64_t table = cow_mapping_writable_table(op, op->cursor, &next);
	if (!table)
		return next;
	struct cow_slot *slot = cow_mapping_slot(op, table, op->cursor);
	return slot ? write_run(op, slot, table) : COW_WAIT;
}

static enum cow_next write_drain(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	if (task->pending)
		return cow_task_wait_io(task);
	if (op->flags & COW_OP_FUA)
		return cow_task_goto(task, &cow_flush_step);
	return COW_END;
}

const struct cow_step cow_write_step_begin = { "write: begin", write_begin };
const struct cow_step cow_write_step_map = { "write: map", write_map };
const struct cow_step cow_write_step_drain = { "write: drain", write_drain };
