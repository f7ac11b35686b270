/* SPDX-License-Identifier: MIT */
/*
 * DISCARD and WRITE_ZEROES. Whole clusters change their mapping within one step under the slice's lock; what they pointed to goes to the
 * quarantine. The rest of a WRITE_ZEROES (parts of clusters, and what the format cannot express) is written as zeros by the steps
 * of write.c, up to op->limit; the rest of a DISCARD is left alone.
 *
 * What an unmapped cluster becomes: unallocated where nothing lies below, else the zero flag, so that old data of a backing
 * file does not reappear. Version 2 has no zero flag: there a discard over a backing file is ignored.
 */
#include <errno.h>

#include "engine/op.h"

static enum cow_next begin(struct cow_task *task)
{
	enum cow_next next = cow_op_begin_write(cow_op_of(task));
	if (next == COW_AGAIN && !task->error)
		task->step = &cow_step_zero_map;
	return next;
}

/* Whole clusters at the cursor, within its slice; 0: the cursor or the end cuts one. The disk's last cluster may be short. */
static uint32_t whole_clusters(const struct cow_op *op)
{
	const struct cow_geometry *g = &op->queue->image->g;
	if (cow_in_cluster(g, op->cursor))
		return 0;
	uint64_t bytes = op->end - op->cursor;
	uint64_t nr = bytes >> g->cluster_bits;
	if (op->end == g->size_bytes)
		nr = (bytes + g->cluster_bytes - 1) >> g->cluster_bits;
	uint32_t idx = cow_l2_slice_idx(g, (struct cow_goff){ op->cursor });
	return (uint32_t)cow_min(nr, g->slice_entries - idx);
}

/* Write zeros from the cursor to the end of its cluster, or to the op's end. */
static enum cow_next write_zeros(struct cow_op *op)
{
	const struct cow_geometry *g = &op->queue->image->g;
	op->limit = cow_min(op->end, cow_round_down(op->cursor, g->cluster_bytes) + g->cluster_bytes);
	return cow_task_goto(&op->task, &cow_step_write_map);
}

static enum cow_next skip_to(struct cow_op *op, uint64_t off)
{
	op->cursor = cow_min(op->end, off);
	return COW_AGAIN;
}

/* New value of an entry; raw itself for no change. */
static uint64_t zeroed(const struct cow_op *op, const struct cow_entry *e, uint64_t off)
{
	const struct cow_image *image = op->queue->image;
	bool keep = op->kind == COW_OP_WRITE_ZEROES && (op->flags & COW_OP_NOUNMAP);
	uint64_t gone = cow_nothing_below(image, off) ? 0 : QCOW2_ZERO;
	switch (e->kind) {
	case COW_UNALLOCATED:
		return gone;
	case COW_NORMAL:
		return keep && e->copied ? e->raw | QCOW2_ZERO : gone;
	case COW_ZERO_ALLOC:
		return keep ? e->raw : gone;
	case COW_COMPRESSED:
		return gone;
	default:
		return e->raw;
	}
}

/* Version 2 can neither keep a cluster as zeros nor hide what lies below. */
static bool expressible(const struct cow_op *op, uint64_t off)
{
	const struct cow_image *image = op->queue->image;
	if (image->g.version >= 3)
		return true;
	bool keep = op->kind == COW_OP_WRITE_ZEROES && (op->flags & COW_OP_NOUNMAP);
	return !keep && cow_nothing_below(image, off);
}

/* Under the slot's lock. Returns false when an entry breaks a rule: *bad is its index. */
static bool change_entries(struct cow_op *op, struct cow_slot *slot, uint32_t idx, uint32_t nr, uint32_t *bad)
{
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->g;
	for (uint32_t i = 0; i < nr; i++) {
		struct cow_entry e = cow_entry_decode(g, cow_slice_entry(slot->data, idx + i));
		if (e.kind == COW_BAD) {
			*bad = idx + i;
			return false;
		}
		uint64_t to = zeroed(op, &e, op->cursor + ((uint64_t)i << g->cluster_bits));
		if (to == e.raw)
			continue;
		if (!(to & QCOW2_OFFSET_MASK))
			cow_free_entry(image, &e);
		cow_slice_set_entry(slot->data, idx + i, to);
	}
	return true;
}

static enum cow_next change_slice(struct cow_op *op, uint64_t table, uint32_t nr)
{
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->g;
	uint64_t first = op->cursor >> g->cluster_bits;
	uint32_t idx = cow_l2_slice_idx(g, (struct cow_goff){ op->cursor }), bad = 0;
	enum cow_next next = cow_op_room_to_free(op, nr);
	if (next != COW_AGAIN || op->task.error)
		return next;
	struct cow_slot *slot = cow_op_slot(op, table, op->cursor);
	if (!slot)
		return COW_WAIT;
	if (cow_inflight_overlaps(&image->inflight, COW_CLAIM_CLUSTERS, first, first + nr)) {
		cow_cache_put(slot);
		if (!cow_inflight_busy(&image->inflight, COW_CLAIM_CLUSTERS, first, first + nr, &op->task))
			return COW_AGAIN;
		return COW_WAIT;
	}
	if (!cow_cache_may_dirty(slot, &op->task))
		return COW_WAIT;
	bool sound = change_entries(op, slot, idx, nr, &bad);
	uint64_t raw = sound ? 0 : cow_slice_entry(slot->data, bad);
	uint64_t at = table + cow_l2_slice_off(g, (struct cow_goff){ op->cursor }) + bad * 8ull;
	cow_cache_put_dirty(slot);
	cow_op_put_room(op);
	cow_quarantine_kick(&image->quarantine, op->task.loop);
	if (!sound)
		return cow_op_bad_entry(op, image, raw, at);
	return skip_to(op, op->cursor + ((uint64_t)nr << g->cluster_bits));
}

static enum cow_next map(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->g;
	op->map = &cow_step_zero_map;
	if (op->cursor >= op->end)
		return cow_task_goto(task, &cow_step_write_drain);
	uint32_t nr = whole_clusters(op);
	if (!nr || !expressible(op, op->cursor)) {
		if (op->kind == COW_OP_WRITE_ZEROES)
			return write_zeros(op);
		return skip_to(op, cow_round_down(op->cursor, g->cluster_bytes) + g->cluster_bytes);
	}
	uint64_t l1_idx = cow_l1_idx(g, (struct cow_goff){ op->cursor });
	if (!cow_table_get(&image->l1, l1_idx) && cow_nothing_below(image, op->cursor))
		return skip_to(op, cow_round_down(op->cursor, cow_l1_span_bytes(g)) + cow_l1_span_bytes(g));
	enum cow_next next;
	uint64_t table = cow_op_writable_table(op, op->cursor, &next);
	if (!table)
		return next;
	return change_slice(op, table, nr);
}

const struct cow_step cow_step_zero_begin = { "zero: begin", begin };
const struct cow_step cow_step_zero_map = { "zero: map", map };
