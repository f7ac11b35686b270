/* SPDX-License-Identifier: MIT */
/* Steps: claim -> look -> squeeze -> place -> refer -> write -> written -> publish. */
#include "engine/request/pack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/format/map.h"
#include "engine/request/data.h"
#include "engine/request/mapping.h"
#include "engine/meta/refcount.h"
#include "engine/request/kind.h"

static const struct cow_step step_look, step_squeeze, step_place, step_refer, step_write,
	step_written, step_publish;

/* ---- the packer ---- */

int cow_packer_init(struct cow_queue *queue)
{
	struct cow_image *image = queue->image;
	if (!image->compress)
		return 0;
	queue->packer.buf = cow_buf_alloc(image->core.g.cluster_bytes);
	queue->packer.deflate = cow_deflate_new(image->core.g.compression_type);
	return queue->packer.buf && queue->packer.deflate ? 0 : -ENOMEM;
}

void cow_packer_fini(struct cow_queue *queue)
{
	free(queue->packer.buf);
	cow_deflate_free(queue->packer.deflate);
}

void cow_packer_close(struct cow_queue *queue)
{
	struct cow_packer *p = &queue->packer;
	unsigned bits = queue->image->core.g.cluster_bits;
	if (p->end > p->start)
		cow_quarantine_add(&queue->image->quarantine, p->start >> bits,
				   (uint32_t)((p->end - p->start) >> bits));
	p->start = p->pos = p->end = 0;
}

void cow_packer_put(struct cow_op *op)
{
	struct cow_packer *p = &op->queue->packer;
	if (p->owner != op)
		return;
	p->owner = NULL;
	cow_waitlist_wake(&op->queue->packer_waiters, 0);
}

bool cow_pack_wanted(const struct cow_op *op)
{
	const struct cow_image *image = op->queue->image;
	const struct cow_geometry *g = &image->core.g;
	/* A host cluster of the tail has its reference and those of what is packed into it. */
	if (!image->compress || g->max_refcount < 3 || op->kind != COW_OP_WRITE ||
	    op->cursor < op->packing.plain_until)
		return false;
	return !cow_in_cluster(g, op->cursor) && op->limit - op->cursor >= g->cluster_bytes;
}

/* ---- steps ---- */

static enum cow_next pack_claim(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	uint64_t cluster = op->cursor >> image->core.g.cluster_bits;
	/* the old cluster, parts of the tail, our references on failure */
	enum cow_next next = cow_op_room_to_free(op, 8, 8);
	if (next != COW_AGAIN || task->error)
		return next;
	if (!cow_claims_take(&image->claims, &op->claim, COW_CLAIM_CLUSTERS, cluster, cluster + 1,
			     task))
		return COW_WAIT;
	return cow_task_goto(task, &step_look);
}

static enum cow_next leave(struct cow_op *op)
{
	cow_packer_put(op);
	cow_op_put_room(op);
	cow_claims_drop(&cow_op_image(op)->claims, &op->claim);
	return cow_task_goto(&op->task, op->map);
}

static enum cow_next write_plain(struct cow_op *op)
{
	op->packing.plain_until = op->cursor + cow_op_image(op)->core.g.cluster_bytes;
	return leave(op);
}

/* What each step behind the claim stands on: one cluster is ours, with room for all it may free. */
static void stand_on_claim(const struct cow_op *op)
{
	cow_assert(op->active && op->in_epoch && op->room);
	cow_assert(op->claim.held && op->claim.space == COW_CLAIM_CLUSTERS);
	cow_assert(op->claim.start == op->cursor >> cow_op_image(op)->core.g.cluster_bits);
}

static enum cow_next pack_look(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	const struct cow_geometry *g = &cow_op_image(op)->core.g;
	enum cow_next next;
	stand_on_claim(op);
	uint64_t table = cow_mapping_writable_table(op, op->cursor, &next);
	if (!table)
		return leave(op);
	struct cow_slot *slot = cow_mapping_slot(op, table, op->cursor);
	if (!slot)
		return COW_WAIT;
	uint32_t idx = cow_l2_slice_idx(g, (struct cow_goff){ op->cursor });
	struct cow_entry e = cow_entry_decode(g, cow_entry_get(g, slot->data, idx), 0);
	cow_cache_put(slot);
	if (e.kind == COW_BAD || (e.has_host && e.copied))
		return write_plain(op);
	return cow_task_goto(task, &step_squeeze);
}

static enum cow_next pack_squeeze(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_packer *p = &op->queue->packer;
	const struct cow_geometry *g = &cow_op_image(op)->core.g;
	stand_on_claim(op);
	if (p->owner) {
		cow_waitlist_park(&op->queue->packer_waiters, task, "the compressor");
		return COW_WAIT;
	}
	p->owner = op;
	/* It pays when at least a sector is saved. */
	uint32_t bytes = cow_deflate_cluster(p->deflate, cow_op_data(op, op->cursor),
					     g->cluster_bytes, p->buf, g->cluster_bytes - 512);
	if (!bytes)
		return write_plain(op);
	op->packing.bytes = (uint32_t)cow_round_up(bytes, 512);
	memset(p->buf + bytes, 0, op->packing.bytes - bytes);
	return cow_task_goto(task, &step_place);
}

/* The tail has passed some clusters: its references on them go. */
static void drop_passed(struct cow_queue *queue, uint64_t upto)
{
	struct cow_packer *p = &queue->packer;
	unsigned bits = queue->image->core.g.cluster_bits;
	uint64_t nr = (upto >> bits) - (p->start >> bits);
	if (nr)
		cow_quarantine_add(&queue->image->quarantine, p->start >> bits, (uint32_t)nr);
	p->start += nr << bits;
}

static enum cow_next pack_place(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_packer *p = &op->queue->packer;
	unsigned bits = cow_op_image(op)->core.g.cluster_bits;
	stand_on_claim(op);
	cow_assert(op->queue->packer.owner == op);
	if (p->end - p->pos < op->packing.bytes) {
		struct cow_hoff host;
		bool zero;
		uint32_t nr = cow_reserve_take(&op->queue->reserve,
					       cow_op_image(op)->core.limits.pack_clusters, &host,
					       &zero, task);
		if (!nr)
			return COW_WAIT;
		cow_packer_close(op->queue);
		p->start = p->pos = host.v;
		p->end = host.v + ((uint64_t)nr << bits);
		if (p->end >> (62 - (bits - 8))) /* beyond what a compressed entry can say */
			return write_plain(op);
	}
	op->packing.host = p->pos;
	op->packing.referenced = 0;
	op->holds_packing = true;
	return cow_task_goto(task, &step_refer);
}

static uint64_t nr_touched(const struct cow_op *op)
{
	unsigned bits = op->queue->image->core.g.cluster_bits;
	const struct cow_packing *k = &op->packing;
	return ((k->host + k->bytes - 1) >> bits) - (k->host >> bits) + 1;
}

void cow_pack_give_back(struct cow_op *op)
{
	struct cow_packing *k = &op->packing;
	if (!op->holds_packing)
		return;
	if (k->referenced)
		cow_quarantine_add(&cow_op_image(op)->quarantine,
				   k->host >> cow_op_image(op)->core.g.cluster_bits,
				   (uint32_t)k->referenced);
	op->holds_packing = false;
}

/*
 * Our reference on each host cluster touched. All of them have the tail's already, so none can be
 * free.
 */
static enum cow_next pack_refer(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->core.g;
	struct cow_packing *k = &op->packing;
	stand_on_claim(op);
	cow_assert(op->queue->packer.owner == op);
	while (k->referenced < nr_touched(op)) {
		uint64_t cluster = (k->host >> g->cluster_bits) + k->referenced;
		struct cow_slot *slot = NULL;
		enum cow_refs_result r = cow_refcount_slot(&image->meta, cluster, task, &slot);
		if (r == COW_REFS_PARKED ||
		    (r == COW_REFS_READY && !cow_cache_may_dirty(slot, task)))
			return COW_WAIT;
		cow_assert(r == COW_REFS_READY); /* it came from a reservation */
		uint64_t idx = cluster % g->refs_per_slice;
		uint64_t refs = cow_refcount_get(slot->data, g->refcount_order, idx);
		bool fits = refs < g->max_refcount;
		if (fits)
			cow_refcount_set(slot->data, g->refcount_order, idx, refs + 1);
		cow_cache_put_dirty(slot);
		if (!fits) { /* narrow refcounts: a fresh tail, if that can help */
			cow_pack_give_back(op);
			cow_packer_close(op->queue);
			return write_plain(op);
		}
		k->referenced++;
	}
	return cow_task_goto(task, &step_write);
}

static enum cow_next pack_write(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_packer *p = &op->queue->packer;
	stand_on_claim(op);
	cow_assert(op->queue->packer.owner == op);
	struct cow_piece *piece = cow_op_piece(op);
	if (!piece)
		return cow_task_wait_io(task);
	p->pos = op->packing.host + op->packing.bytes;
	drop_passed(op->queue, p->pos);
	cow_op_submit_rw(op, piece, COW_IO_WRITE, cow_op_image(op)->core.file, op->packing.host,
			 p->buf, op->packing.bytes);
	return cow_task_goto(task, &step_written);
}

static enum cow_next pack_written(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	stand_on_claim(op);
	cow_assert(op->queue->packer.owner == op);
	if (task->pending)
		return cow_task_wait_io(task);
	cow_packer_put(op);
	/* An equal entry may have stood for other content: see inflated.h. */
	struct cow_image *image = cow_op_image(op);
	cow_inflated_drop(image->inflated, image,
			  cow_compressed_encode(op->packing.host, op->packing.bytes,
						image->core.g.cluster_bits));
	return cow_task_goto(task, &step_publish);
}

static enum cow_next pack_publish(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->core.g;
	enum cow_next next;
	stand_on_claim(op);
	uint64_t table = cow_mapping_writable_table(op, op->cursor, &next);
	cow_assert(table); /* as under look */
	struct cow_slot *slot = cow_mapping_slot(op, table, op->cursor);
	if (!slot || !cow_cache_may_dirty(slot, task))
		return COW_WAIT;
	atomic_store(&image->core.commit.ordered_data, true); /* before the entry can be captured */
	uint32_t idx = cow_l2_slice_idx(g, (struct cow_goff){ op->cursor });
	struct cow_entry old = cow_entry_decode(g, cow_entry_get(g, slot->data, idx), 0);
	cow_mapping_free_entry(image, &old);
	cow_entry_set(g, slot->data, idx,
		      (struct cow_l2_entry){
			      .raw = cow_compressed_encode(op->packing.host, op->packing.bytes,
							   g->cluster_bits),
		      });
	cow_cache_put_dirty(slot);
	op->holds_packing = false;
	op->cursor += g->cluster_bytes;
	cow_quarantine_kick(&image->quarantine, task->loop);
	return leave(op);
}

const struct cow_step cow_pack_step = { "pack: claim", pack_claim };
static const struct cow_step step_look = { "pack: look", pack_look };
static const struct cow_step step_squeeze = { "pack: squeeze", pack_squeeze };
static const struct cow_step step_place = { "pack: place", pack_place };
static const struct cow_step step_refer = { "pack: refer", pack_refer };
static const struct cow_step step_write = { "pack: write", pack_write };
static const struct cow_step step_written = { "pack: written", pack_written };
static const struct cow_step step_publish = { "pack: publish", pack_publish };
