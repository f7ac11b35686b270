/* SPDX-License-Identifier: MIT */
/*
 * DISCARD and WRITE_ZEROES. Whole clusters change their mapping within one step under the slice's
 * lock; what they pointed to goes to the quarantine. With extended L2 entries whole subclusters get
 * their zero bit in the same way; their cluster stays. The rest of a WRITE_ZEROES (parts of
 * clusters, and what the format cannot express) is written as zeros by the steps of write.c, up to
 * op->limit; the rest of a DISCARD is left alone.
 *
 * What an unmapped cluster becomes: unallocated where nothing lies below, else the zero flag, so
 * that old data of a backing file does not reappear. Version 2 has no zero flag: there a discard
 * over a backing file is ignored.
 */
#include "engine/request/zero.h"

#include <errno.h>

#include "engine/base/math.h"
#include "engine/request/mapping.h"
#include "engine/request/kind.h"
#include "engine/request/write.h"

/*
 * ---- external data file: each cluster has its place, so nothing is freed; what holds data is punched in place ----
 */

static const struct cow_step step_map;

/* Zeros are written from the cursor to off; then the mapping is looked at again. */
static enum cow_next write_upto(struct cow_op *op, uint64_t off)
{
	cow_op_enter_epoch(op);
	op->limit = off;
	op->at_limit = &step_map;
	return cow_task_goto(&op->task, &cow_write_step_map);
}

static void punch_done(struct cow_io *io)
{
	struct cow_piece *piece = (struct cow_piece *)io;
	struct cow_op *op = piece->op;
	piece->busy = false;
	bool cannot = io->result == -EOPNOTSUPP;
	op->punch_failed |= cannot;
	cow_task_io_done(&op->task, cannot ? 0 : io->result);
}

static bool must_not_punch(const struct cow_op *op)
{
	const struct cow_image *image = op->queue->image;
	bool keep = op->kind == COW_OP_WRITE_ZEROES && (op->flags & COW_OP_NOUNMAP);
	return keep || image->key || image->core.no_discard || !image->core.data->can_punch;
}

/*
 * By the mapping; but what is readable as a raw file must hold the zeros itself, or (DISCARD) is
 * left alone.
 */
static enum cow_next without_punching(struct cow_op *op)
{
	op->no_punch = true;
	if (cow_op_image(op)->core.raw_data_file) {
		if (op->kind == COW_OP_DISCARD)
			return cow_task_goto(&op->task, &cow_write_step_drain);
		op->explicit_zeros = true;
	}
	return cow_task_goto(&op->task, &step_map);
}

static enum cow_next zero_drained(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	cow_assert(!op->claim.held && !op->room);
	if (task->pending)
		return cow_task_wait_io(task);
	if (!op->punch_failed)
		return cow_task_goto(task, &cow_write_step_drain);
	op->punch_failed = false; /* again, in another way */
	op->cursor = op->off;
	return without_punching(op);
}

static const struct cow_step step_drained = { "zero: drained", zero_drained };

/*
 * Punch [host, host + bytes) of the data file, for the guest's bytes at the cursor. A part of a
 * host block is written instead: the host would clear it through its page cache, against direct
 * writes to the same block.
 */
static enum cow_next punch_run(struct cow_op *op, uint64_t host, uint64_t bytes)
{
	uint64_t head = cow_round_up(host, COW_PUNCH_ALIGN_BYTES) - host,
		 whole = cow_round_down(bytes, COW_PUNCH_ALIGN_BYTES);
	if (head || !whole) {
		return write_upto(op, op->cursor + (head ? cow_min(head, bytes) : bytes));
	}
	struct cow_piece *piece = cow_op_piece(op);
	if (!piece)
		return cow_task_wait_io(&op->task);
	cow_io_prep(&piece->io, COW_IO_PUNCH, op->queue->image->core.data, host, whole, punch_done);
	op->cursor += whole;
	cow_op_submit_piece(op, piece);
	return COW_AGAIN;
}

/*
 * Punch the run at the cursor if it holds data. *bytes: length of the run at the cursor, changed or
 * not. COW_AGAIN with *bytes set: no data there, its mapping is to be looked at.
 */
static enum cow_next punch_in_place(struct cow_op *op, uint64_t table, uint64_t *bytes)
{
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->core.g;
	struct cow_slot *slot = cow_mapping_slot(op, table, op->cursor);
	if (!slot)
		return COW_WAIT;
	struct cow_run run =
		cow_map_run(g, slot->data, (struct cow_goff){ op->cursor }, op->end - op->cursor);
	uint64_t first = op->cursor >> g->cluster_bits,
		 end = (op->cursor + run.bytes - 1) >> g->cluster_bits;
	cow_cache_put(slot);
	/*
	 * A copy on write under way would bring back what is punched; after a look at the mapping,
	 * so nothing is missed.
	 */
	if (cow_claims_busy(&image->claims, COW_CLAIM_CLUSTERS, first, end + 1, &op->task))
		return COW_WAIT;
	*bytes = run.bytes;
	if (run.first.kind != COW_NORMAL)
		return COW_AGAIN;
	*bytes = 0;
	return punch_run(op, run.first.host.v + cow_in_cluster(g, op->cursor), run.bytes);
}

static enum cow_next zero_begin(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	enum cow_next next = cow_op_begin_write(op);
	if (next != COW_AGAIN || task->error)
		return next;
	if (cow_op_image(op)->core.g.data_file && must_not_punch(op))
		return without_punching(op);
	return cow_task_goto(task, &step_map);
}

/* ---- ranges ---- */

/*
 * Whole clusters at the cursor, within its slice; 0: the cursor or the end cuts one. The disk's
 * last cluster may be short.
 */
static uint32_t whole_clusters(const struct cow_op *op)
{
	const struct cow_geometry *g = &op->queue->image->core.g;
	if (cow_in_cluster(g, op->cursor))
		return 0;
	uint64_t bytes = op->end - op->cursor;
	uint64_t nr = bytes >> g->cluster_bits;
	if (op->end == g->size_bytes)
		nr = (bytes + g->cluster_bytes - 1) >> g->cluster_bits;
	uint32_t idx = cow_l2_slice_idx(g, (struct cow_goff){ op->cursor });
	return (uint32_t)cow_min(nr, g->slice_entries - idx);
}

/*
 * Whole subclusters at the cursor, within its cluster, in bytes; 0: the cursor or the end cuts one.
 */
static uint64_t whole_subs(const struct cow_op *op)
{
	const struct cow_geometry *g = &op->queue->image->core.g;
	if (!g->extended_l2 || (op->cursor & (g->sub_bytes - 1)))
		return 0;
	uint64_t end = op->end == g->size_bytes ? cow_round_up(op->end, g->sub_bytes) : op->end;
	uint64_t left = cow_min(end - op->cursor, g->cluster_bytes - cow_in_cluster(g, op->cursor));
	return cow_round_down(left, g->sub_bytes);
}

/* Write zeros from the cursor to the end of its subcluster, or to the op's end. */
static enum cow_next write_zeros(struct cow_op *op)
{
	const struct cow_geometry *g = &op->queue->image->core.g;
	return write_upto(
		op, cow_min(op->end, cow_round_down(op->cursor, g->sub_bytes) + g->sub_bytes));
}

static enum cow_next skip_to(struct cow_op *op, uint64_t off)
{
	op->cursor = cow_min(op->end, off);
	return COW_AGAIN;
}

static bool keeps_clusters(const struct cow_op *op)
{
	return op->kind == COW_OP_WRITE_ZEROES && (op->flags & COW_OP_NOUNMAP);
}

/*
 * Entry for a cluster that reads as zeros, with its host cluster (host != 0, ours) or without one.
 */
static struct cow_l2_entry zero_entry(const struct cow_image *image, uint64_t host, uint64_t off)
{
	if (!host && cow_nothing_below(image, off))
		return (struct cow_l2_entry){ 0 };
	if (image->core.g.extended_l2)
		return (struct cow_l2_entry){ .raw = host ? host | QCOW2_COPIED : 0,
					      .subs = COW_SUBS_ZERO };
	return (struct cow_l2_entry){ .raw = (host ? host | QCOW2_COPIED : 0) | QCOW2_ZERO };
}

/* New value for a whole cluster. */
static struct cow_l2_entry zeroed(const struct cow_op *op, const struct cow_entry *e, uint64_t off)
{
	const struct cow_image *image = op->queue->image;
	if ((e->kind == COW_ZERO_PLAIN && !image->core.g.extended_l2))
		return (struct cow_l2_entry){ e->raw, e->subs };
	bool keep = e->kind != COW_COMPRESSED && e->has_host && e->copied &&
		    (keeps_clusters(op) || image->core.g.data_file);
	return zero_entry(image, keep ? e->host.v : 0, off);
}

/* Version 2 can neither keep a cluster as zeros nor hide what lies below. */
static bool expressible(const struct cow_op *op, uint64_t off)
{
	const struct cow_image *image = op->queue->image;
	if (op->explicit_zeros)
		return false;
	if (image->core.g.version >= 3)
		return true;
	return !keeps_clusters(op) && cow_nothing_below(image, off);
}

/* What is to change in one slice, then what was: whole clusters, or some subclusters of one. */
struct change {
	uint32_t nr;	/* clusters */
	uint64_t bytes; /* of the guest */
	bool subs;
	struct cow_entry bad;
	uint64_t bad_off;
};

/*
 * Does the entry hold data in a data file, which is punched first? There was none at the look: a copy on write
 * of another thread has ended since. subs: those that count.
 */
static bool is_punched_first(const struct cow_op *op, const struct cow_entry *e, uint64_t subs)
{
	const struct cow_geometry *g = &op->queue->image->core.g;
	if (!g->data_file || op->no_punch)
		return false;
	return g->extended_l2 ? e->has_host && (e->subs & subs & COW_SUBS_ALLOCATED)
			      : e->kind == COW_NORMAL;
}

/* The entry of a cluster was changed: a host cluster that stays may have writes under way. */
static void note_kept(struct cow_image *image, const struct cow_entry *was, struct cow_l2_entry to,
		      uint64_t off)
{
	const struct cow_geometry *g = &image->core.g;
	if (was->has_host && (g->data_file || (to.raw & QCOW2_OFFSET_MASK)))
		cow_kept_note(&image->kept, off >> g->cluster_bits, cow_epoch_now(&image->epoch));
}

/* Under the slot's lock. False when an entry breaks a rule. */
static bool change_clusters(struct cow_op *op, struct cow_slot *slot, uint32_t idx,
			    struct change *c)
{
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->core.g;
	for (uint32_t i = 0; i < c->nr; i++) {
		uint64_t off = op->cursor + ((uint64_t)i << g->cluster_bits);
		struct cow_entry e = cow_entry_decode(g, cow_entry_get(g, slot->data, idx + i), 0);
		if (e.kind == COW_BAD) {
			c->bad = e;
			c->bad_off = off;
			return false;
		}
		if (is_punched_first(op, &e, COW_SUBS_ALLOCATED)) {
			c->bytes = (uint64_t)i << g->cluster_bits;
			return true;
		}
		struct cow_l2_entry to = zeroed(op, &e, off);
		if (to.raw == e.raw && to.subs == e.subs)
			continue;
		if (!(to.raw & QCOW2_OFFSET_MASK))
			cow_mapping_free_entry(image, &e);
		cow_entry_set(g, slot->data, idx + i, to);
		note_kept(image, &e, to, off);
	}
	return true;
}

/*
 * As before, for subclusters of one cluster. A compressed cluster is left to be written to:
 * *compressed.
 */
static bool change_subs(struct cow_op *op, struct cow_slot *slot, uint32_t idx, struct change *c,
			bool *compressed)
{
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->core.g;
	struct cow_entry e = cow_entry_decode(g, cow_entry_get(g, slot->data, idx), 0);
	*compressed = e.kind == COW_COMPRESSED;
	if (e.kind == COW_BAD) {
		c->bad = e;
		c->bad_off = op->cursor;
		return false;
	}
	if (*compressed || (!e.has_host && cow_nothing_below(image, op->cursor)))
		return true;
	uint64_t bits = cow_entry_subs(g, op->cursor, c->bytes);
	if (is_punched_first(op, &e, bits)) {
		c->bytes = 0;
		return true;
	}
	struct cow_l2_entry to = { .raw = e.raw, .subs = (e.subs & ~bits) | bits << 32 };
	cow_entry_set(g, slot->data, idx, to);
	note_kept(image, &e, to, op->cursor);
	return true;
}

/* To `bytes` at the cursor, which end with a subcluster, or with the op. */
static void clip_change(struct change *c, const struct cow_geometry *g, uint64_t bytes)
{
	bytes = cow_round_up(bytes, g->sub_bytes);
	if (c->bytes <= bytes)
		return;
	c->subs = c->subs || bytes < g->cluster_bytes;
	c->nr = c->subs ? 1 : (uint32_t)(bytes >> g->cluster_bits);
	c->bytes = c->subs ? bytes : (uint64_t)c->nr << g->cluster_bits;
}

static enum cow_next change_slice(struct cow_op *op, uint64_t table, struct change *c)
{
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->core.g;
	uint64_t first = op->cursor >> g->cluster_bits;
	uint32_t idx = cow_l2_slice_idx(g, (struct cow_goff){ op->cursor });
	bool sound, compressed = false;
	cow_assert(c->nr && !op->claim.held);
	cow_op_enter_epoch(op);
	struct cow_slot *slot = cow_mapping_slot(op, table, op->cursor);
	if (!slot)
		return COW_WAIT;
	enum cow_next next;
	if (cow_mapping_is_claimed(op, slot, first, c->nr, &next))
		return next;
	/* Room for no longer than this step: who parks keeps none from others. */
	if (!cow_op_room_for_many(op, c->nr)) {
		cow_cache_put(slot);
		return cow_op_wait_for_many(op);
	}
	clip_change(c, g, (uint64_t)op->room << g->cluster_bits);
	if (!cow_cache_may_dirty(slot, &op->task)) {
		cow_op_put_room(op);
		return COW_WAIT;
	}
	if (c->subs)
		sound = change_subs(op, slot, idx, c, &compressed);
	else
		sound = change_clusters(op, slot, idx, c);
	cow_cache_put_dirty(slot);
	cow_op_put_room(op);
	cow_quarantine_kick(&image->quarantine, op->task.loop);
	if (!sound)
		return cow_mapping_bad_entry(op, &c->bad, table, c->bad_off);
	if (compressed && op->kind == COW_OP_WRITE_ZEROES)
		return write_zeros(op);
	return skip_to(op, op->cursor + c->bytes);
}

static struct change next_change(const struct cow_op *op)
{
	struct change c = { .nr = whole_clusters(op) };
	c.bytes = (uint64_t)c.nr << op->queue->image->core.g.cluster_bits;
	if (!c.nr) {
		c.bytes = whole_subs(op);
		c.subs = c.bytes != 0;
		c.nr = c.subs;
	}
	return c;
}

/* What the mapping cannot say is written, or (DISCARD) left alone. */
static enum cow_next inexpressible(struct cow_op *op)
{
	uint32_t unit = op->queue->image->core.g.sub_bytes;
	if (op->kind == COW_OP_WRITE_ZEROES)
		return write_zeros(op);
	return skip_to(op, cow_round_down(op->cursor, unit) + unit);
}

static enum cow_next zero_map(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->core.g;
	cow_assert(!op->claim.held);
	op->map = &step_map;
	if (op->cursor >= op->end)
		return cow_task_goto(task, &step_drained);
	struct change c = next_change(op);
	bool in_data_file = g->data_file && !op->no_punch;
	if (!in_data_file && (!c.nr || !expressible(op, op->cursor)))
		return inexpressible(op);
	uint64_t l1_idx = cow_l1_idx(g, (struct cow_goff){ op->cursor });
	if (!cow_table_get(&image->meta.l1, l1_idx) && cow_nothing_below(image, op->cursor))
		return skip_to(op, cow_round_down(op->cursor, cow_l1_span_bytes(g)) +
					   cow_l1_span_bytes(g));
	enum cow_next next;
	uint64_t table = cow_mapping_writable_table(op, op->cursor, &next);
	if (!table)
		return next;
	if (in_data_file) {
		uint64_t bytes;
		next = punch_in_place(op, table, &bytes);
		if (next != COW_AGAIN || !bytes)
			return next;
		if (!c.nr)
			return inexpressible(op);
		/* The run holds no data; subclusters behind it may, and that is punched first. */
		clip_change(&c, g, bytes);
	}
	return change_slice(op, table, &c);
}

const struct cow_step cow_zero_step = { "zero: begin", zero_begin };
static const struct cow_step step_map = { "zero: map", zero_map };
