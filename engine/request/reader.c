/* SPDX-License-Identifier: MIT */
/* See reader.h. In this order: compressed clusters; all kinds. */
#include "engine/request/reader.h"

#include <string.h>

#include "engine/base/log.h"
#include "engine/base/math.h"
#include "engine/format/map.h"
#include "engine/request/data.h"

static void advance(struct cow_reader *r, uint64_t bytes)
{
	r->pos += bytes;
	r->buf += bytes;
}

/* ---- compressed clusters ---- */

/* The source's bytes are at r->buf. */
static void store(struct cow_op *op, const struct cow_reader *r)
{
	int ret = op->guest ? cow_op_store(op, r->buf, r->source.bytes) : 0;
	if (ret)
		cow_task_fail(&op->task, ret);
}

static void copy_out(struct cow_op *op, struct cow_reader *r, const uint8_t *cluster)
{
	cow_assert(r->source.bytes <= r->end - r->pos);
	memcpy(r->buf, cluster + r->source.in_cluster, r->source.bytes);
	store(op, r);
	advance(r, r->source.bytes);
}

static void put_packed(struct cow_queue *queue, struct cow_reader *r)
{
	cow_assert(queue->nr_packed < queue->all_packed);
	queue->packed[queue->nr_packed++] = r->packed;
	r->packed = NULL;
	cow_waitlist_wake(&queue->packed_waiters, 0);
}

static enum cow_next read_packed(struct cow_op *op, struct cow_reader *r, struct cow_piece *piece)
{
	struct cow_image *image = r->source.image;
	struct cow_compressed c =
		cow_compressed_decode(r->source.entry, image->core.g.cluster_bits);
	uint64_t start = cow_round_down(c.off, 512), end = cow_round_up(c.off + c.bytes, 512);
	cow_assert(!r->packed && op->queue->nr_packed && end - start <= op->queue->packed_bytes);
	r->packed = op->queue->packed[--op->queue->nr_packed];
	cow_op_submit_rw(op, piece, COW_IO_READ, image->core.file, start, r->packed, end - start);
	return cow_task_wait_io(&op->task);
}

static enum cow_next start_inflate(struct cow_op *op, struct cow_reader *r, struct cow_piece *piece)
{
	struct cow_queue *queue = op->queue;
	struct cow_inflated *cache = cow_op_image(op)->inflated;
	struct cow_inflated_slot *slot;
	switch (cow_inflated_ask(cache, r->source.image, r->source.entry,
				 queue->nr_packed ? &r->inflating : NULL, &op->task, &slot)) {
	case COW_INFLATED_HIT:
		copy_out(op, r, slot->data);
		cow_inflated_put(cache, slot);
		return COW_AGAIN;
	case COW_INFLATED_MINE:
		return read_packed(op, r, piece);
	case COW_INFLATED_MISS:
		cow_waitlist_park(&queue->packed_waiters, &op->task, "a buffer to inflate from");
		return COW_WAIT;
	case COW_INFLATED_PARKED:
		break;
	}
	return COW_WAIT;
}

static enum cow_next finish_inflate(struct cow_op *op, struct cow_reader *r)
{
	struct cow_queue *queue = op->queue;
	struct cow_image *image = r->source.image;
	struct cow_compressed c =
		cow_compressed_decode(r->source.entry, image->core.g.cluster_bits);
	if (op->task.pending)
		return cow_task_wait_io(&op->task);
	int ret = cow_inflate_cluster(queue->inflate, image->core.g.compression_type,
				      r->packed + (c.off & 511), c.bytes, queue->unpacked,
				      image->core.g.cluster_bytes);
	if (ret) {
		cow_log(COW_LOG_ERR, "%s: compressed cluster at offset %llu cannot be decompressed",
			image->core.path, (unsigned long long)c.off);
		cow_task_fail(&op->task, ret);
		return COW_AGAIN;
	}
	copy_out(op, r, queue->unpacked);
	cow_inflated_done(cow_op_image(op)->inflated, &r->inflating, &queue->unpacked);
	put_packed(queue, r);
	return COW_AGAIN;
}

void cow_reader_end(struct cow_op *op, struct cow_reader *r)
{
	if (!r->packed)
		return;
	cow_inflated_done(cow_op_image(op)->inflated, &r->inflating, NULL);
	put_packed(op->queue, r);
}

/* ---- all kinds ---- */

static enum cow_next read_run(struct cow_op *op, struct cow_reader *r)
{
	struct cow_source *s = &r->source;
	struct cow_piece *piece = cow_op_piece(op);
	if (!piece)
		return cow_task_wait_io(&op->task);
	if (!cow_source_find(cow_op_image(op), r->pos, r->end - r->pos, s, &op->task))
		return COW_WAIT;
	switch (s->kind) {
	case COW_SOURCE_ZERO:
		memset(r->buf, 0, s->bytes);
		store(op, r);
		break;
	case COW_SOURCE_DATA:
		cow_data_read(op, piece, s->image, s->host_off, r->pos, r->buf, s->bytes);
		break;
	case COW_SOURCE_COMPRESSED:
		return start_inflate(op, r, piece);
	}
	advance(r, s->bytes);
	return COW_AGAIN;
}

enum cow_next cow_reader_read(struct cow_op *op, struct cow_reader *r)
{
	while (r->pos < r->end) {
		enum cow_next next = r->packed ? finish_inflate(op, r) : read_run(op, r);
		if (next != COW_AGAIN || op->task.error)
			return next;
	}
	return op->task.pending ? cow_task_wait_io(&op->task) : COW_AGAIN;
}
