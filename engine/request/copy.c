/* SPDX-License-Identifier: MIT */
/*
 * Copy on write, and all other writes that must fill a whole new cluster: claim -> look -> fill ->
 * write -> publish.
 *
 * Until publish the guest's mapping is the old one and readers follow it. The new clusters become
 * visible when all of their bytes are written; ordered_data makes the next writeback pass put a
 * barrier between them and the L2 entries (data | L2). What the old entries pointed to goes to the
 * quarantine in the same step.
 *
 * Small clusters: head and tail are read into one bounce buffer and written together with the data,
 * in one host write. Large ones: head and tail are copied in chunks, then the data is written.
 *
 * A cluster of ours that does not hold valid bytes there yet (preallocated zeros, subclusters) is
 * filled in place in the same way, when nothing is on its way there any more (image/kept.h).
 */
#include "engine/request/copy.h"

#include <errno.h>
#include <string.h>

#include "engine/base/math.h"
#include "engine/request/data.h"
#include "engine/request/mapping.h"
#include "engine/request/reader.h"

#define READ_OVER_BYTES (32u << 10)
/*
 * Of the quarantine's ring, held while the copy runs: for the clusters that it replaces, or for the
 * new ones that come back if it fails, which is one extent.
 */
#define MAX_PLACES 64u

static const struct cow_step step_quiet, step_look, step_fill, step_read_head, step_read_tail,
	step_write_merged, step_chunk, step_chunk_read, step_chunk_write, step_write_data,
	step_written, step_publish;

static enum cow_next copy_claim(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	unsigned bits = image->core.g.cluster_bits;
	/* whoever waits for a claim holds nothing that the claim's holder may need */
	cow_assert(!op->bounce);
	/*
	 * Room first: who holds a claim must not wait for the release of freed clusters (see op.h).
	 */
	uint64_t nr = op->copy.frees ? (op->copy.end - op->copy.start) >> bits : 1;
	enum cow_next next = cow_op_room_to_free(op, 1, (unsigned)cow_min(nr, MAX_PLACES));
	if (next != COW_AGAIN || task->error)
		return next;
	if (!cow_claims_take(&image->claims, &op->claim, COW_CLAIM_CLUSTERS, op->copy.start >> bits,
			     op->copy.end >> bits, task))
		return COW_WAIT;
	return cow_task_goto(task, &step_look);
}

static enum cow_next give_up(struct cow_op *op)
{
	cow_op_put_room(op);
	cow_claims_drop(&cow_op_image(op)->claims, &op->claim);
	return cow_task_goto(&op->task, op->map);
}

/*
 * What to fill. A new cluster that takes the place of data of another one is filled whole; with
 * extended L2 entries a cluster of ours, or the first cluster for this place, gets just the
 * subclusters that the request touches.
 */
static void plan_fill(struct cow_op *op, const struct cow_run *run, bool whole)
{
	struct cow_copy *copy = &op->copy;
	uint32_t sub = cow_op_image(op)->core.g.sub_bytes;
	copy->data_start = op->cursor;
	copy->data_end = cow_min(op->limit, copy->end);
	copy->fill_start = copy->start;
	copy->fill_end = copy->end;
	if (whole)
		return;
	copy->data_end = cow_min(copy->data_end, op->cursor + run->bytes);
	copy->fill_start = cow_round_down(copy->data_start, sub);
	copy->fill_end = cow_round_up(copy->data_end, sub);
}

/*
 * Host clusters for the copy: new ones, or the one that is there. COW_AGAIN when copy->host and
 * copy->end are set.
 */
static enum cow_next find_host(struct cow_op *op, const struct cow_entry *e, uint32_t nr)
{
	struct cow_image *image = cow_op_image(op);
	struct cow_copy *copy = &op->copy;
	bool zero;
	copy->allocated = !(e->has_host && e->copied);
	copy->host = e->host;
	if (image->core.g.data_file) { /* each guest cluster has its place */
		copy->host.v = copy->start;
	} else if (copy->allocated) {
		nr = cow_reserve_take(&op->queue->reserve, nr, &copy->host, &zero, &op->task);
		if (!nr)
			return COW_WAIT;
	} else {
		const char *fault = cow_data_misplaced(image, e->host.v,
						       (uint64_t)nr << image->core.g.cluster_bits);
		if (fault)
			cow_task_fail(&op->task, cow_core_corrupt(&image->core, op->task.loop,
								  e->host.v, fault));
	}
	copy->holds_host = copy->allocated && !image->core.g.data_file;
	copy->end = copy->start + ((uint64_t)nr << image->core.g.cluster_bits);
	return COW_AGAIN;
}

/*
 * How many clusters of the run to take on at once: encrypted ones must fit into the bounce buffer,
 * those replaced into our room in the quarantine.
 */
static uint32_t max_clusters(const struct cow_op *op, uint64_t run_bytes)
{
	const struct cow_image *image = op->queue->image;
	const struct cow_geometry *g = &image->core.g;
	uint64_t touched = op->cursor + run_bytes - op->copy.start;
	uint64_t nr = (touched + g->cluster_bytes - 1) >> g->cluster_bits;
	if (op->copy.frees)
		nr = cow_min(nr, op->room);
	if (g->extended_l2)
		nr = 1;
	if (cow_data_is_encrypted(image))
		nr = cow_min(nr, cow_max(COW_BOUNCE_BYTES >> g->cluster_bits, 1));
	return (uint32_t)nr;
}

/* What each step behind the claim stands on. */
static void stand_on_claim(const struct cow_op *op)
{
	cow_assert(op->active && op->in_epoch);
	cow_assert(op->claim.held && op->claim.space == COW_CLAIM_CLUSTERS);
}

/* And behind look: what is copied is ours, and there is room for what it takes the place of. */
static void stand_on_copy(const struct cow_op *op)
{
	const struct cow_copy *copy = &op->copy;
	unsigned bits = cow_op_image(op)->core.g.cluster_bits;
	stand_on_claim(op);
	cow_assert(op->claim.start <= copy->start >> bits && copy->end >> bits <= op->claim.end);
	cow_assert(copy->start <= copy->fill_start && copy->fill_end <= copy->end);
	cow_assert(copy->fill_start <= copy->data_start && copy->data_end <= copy->fill_end);
	cow_assert(!copy->frees || (copy->end - copy->start) >> bits <= op->room);
}

/* May something still be on its way to the host clusters that are to be filled in place? */
static bool is_quiet(struct cow_op *op, const struct cow_entry *e, uint32_t nr)
{
	struct cow_image *image = cow_op_image(op);
	struct cow_copy *copy = &op->copy;
	if (!image->core.g.data_file && !(e->has_host && e->copied))
		return true;
	copy->quiet = cow_kept_epoch(&image->kept, copy->start >> image->core.g.cluster_bits, nr);
	return cow_epoch_passed(&image->epoch, copy->quiet);
}

/*
 * Out of our own epoch, and without the claim: who waits for that is in an epoch. Then all over again:
 * the range may have been zeroed once more.
 */
static enum cow_next copy_quiet(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	cow_assert(!op->claim.held && !op->room && !op->bounce);
	if (task->pending)
		return cow_task_wait_io(task);
	cow_op_leave_epoch(op);
	if (cow_quarantine_wait_epoch(&cow_op_image(op)->quarantine, op->copy.quiet, task))
		return COW_WAIT;
	cow_op_enter_epoch(op);
	return cow_task_goto(task, op->map);
}

/* The mapping as it is under the claim: from now on nobody else changes it. */
static enum cow_next copy_look(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	const struct cow_geometry *g = &cow_op_image(op)->core.g;
	enum cow_next next;
	stand_on_claim(op);
	uint64_t table = cow_mapping_writable_table(op, op->cursor, &next);
	if (!table)
		return give_up(op);
	struct cow_slot *slot = cow_mapping_slot(op, table, op->cursor);
	if (!slot)
		return COW_WAIT;
	uint64_t claimed = (op->claim.end << g->cluster_bits) - op->cursor;
	struct cow_run run = cow_map_run(g, slot->data, (struct cow_goff){ op->cursor }, claimed);
	cow_cache_put(slot);
	struct cow_entry *e = &run.first;
	if (e->kind == COW_BAD || (e->kind == COW_NORMAL && e->copied))
		return give_up(op);
	op->copy.frees = cow_entry_is_replaced(e); /* it may have changed before the claim */
	uint32_t nr = max_clusters(op, run.bytes);
	if (!is_quiet(op, e, nr)) {
		give_up(op);
		return cow_task_goto(task, &step_quiet);
	}
	next = find_host(op, e, nr);
	if (next != COW_AGAIN || task->error)
		return next;
	plan_fill(op, &run, !g->extended_l2 || op->copy.frees);
	return cow_task_goto(task, &step_fill);
}

/* ---- filling ---- */

static uint64_t head_bytes(const struct cow_copy *copy)
{
	return copy->data_start - copy->fill_start;
}

static uint64_t tail_bytes(const struct cow_copy *copy)
{
	return copy->fill_end - copy->data_end;
}

/*
 * Does everything that is filled fit into the bounce buffer? Then each byte has its place there,
 * else tail follows head.
 */
static bool fits_whole(const struct cow_copy *copy)
{
	return copy->fill_end - copy->fill_start <= COW_BOUNCE_BYTES;
}

/* One read over a small gap costs less than two. */
static bool reads_as_one(const struct cow_copy *copy)
{
	return fits_whole(copy) && head_bytes(copy) && tail_bytes(copy) &&
	       copy->data_end - copy->data_start <= READ_OVER_BYTES;
}

static uint8_t *tail_buf(const struct cow_op *op)
{
	const struct cow_copy *copy = &op->copy;
	return op->bounce +
	       (fits_whole(copy) ? copy->data_end - copy->fill_start : head_bytes(copy));
}

/* Where guest offset off lands. */
static uint64_t host_of(const struct cow_copy *copy, uint64_t off)
{
	return copy->host.v + (off - copy->start);
}

static enum cow_next copy_fill(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_copy *copy = &op->copy;
	bool encrypted = cow_data_is_encrypted(cow_op_image(op));
	stand_on_copy(op);
	uint64_t rest = head_bytes(copy) + tail_bytes(copy);
	copy->chunk = copy->data_start;
	if (!rest && !encrypted)
		return cow_task_goto(task, &step_write_data);
	if (!cow_op_get_bounce(op))
		return COW_WAIT;
	if (fits_whole(copy) || (!encrypted && rest <= COW_BOUNCE_BYTES)) {
		cow_reader_begin(&op->reader, copy->fill_start,
				 reads_as_one(copy) ? copy->fill_end : copy->data_start,
				 op->bounce);
		return cow_task_goto(task, &step_read_head);
	}
	copy->chunk = copy->fill_start;
	copy->chunk_end = copy->fill_start;
	return cow_task_goto(task, &step_chunk);
}

static enum cow_next copy_read_head(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_copy *copy = &op->copy;
	cow_assert(op->bounce);
	stand_on_copy(op);
	enum cow_next next = cow_reader_read(op, &op->reader);
	if (next != COW_AGAIN || task->error)
		return next;
	if (op->reader.pos == copy->fill_end)
		return cow_task_goto(task, &step_write_merged);
	cow_reader_begin(&op->reader, copy->data_end, copy->fill_end, tail_buf(op));
	return cow_task_goto(task, &step_read_tail);
}

static enum cow_next copy_read_tail(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	stand_on_copy(op);
	enum cow_next next = cow_reader_read(op, &op->reader);
	if (next != COW_AGAIN || task->error)
		return next;
	return cow_task_goto(task, &step_write_merged);
}

static void add_vec(struct cow_io *io, void *base, uint64_t bytes)
{
	if (bytes)
		io->vec[io->nr_vec++] = (struct iovec){ .iov_base = base, .iov_len = bytes };
}

/*
 * The request's bytes of a copy; WRITE_ZEROES writes within one cluster, so that image->zeros is
 * long enough.
 */
static enum cow_next copy_write_merged(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_copy *copy = &op->copy;
	cow_assert(op->bounce);
	stand_on_copy(op);
	struct cow_piece *piece = cow_op_piece(op);
	if (!piece)
		return cow_task_wait_io(task);
	task->step = &step_written;
	if (cow_data_is_encrypted(cow_op_image(op))) {
		memcpy(op->bounce + head_bytes(copy), cow_op_data(op, copy->data_start),
		       copy->data_end - copy->data_start);
		cow_data_write(op, piece, host_of(copy, copy->fill_start), copy->fill_start,
			       op->bounce, copy->fill_end - copy->fill_start);
		return COW_AGAIN;
	}
	cow_io_prep(&piece->io, COW_IO_WRITE, cow_op_image(op)->core.data,
		    host_of(copy, copy->fill_start), copy->fill_end - copy->fill_start,
		    cow_op_piece_done);
	add_vec(&piece->io, op->bounce, head_bytes(copy));
	add_vec(&piece->io, cow_op_data(op, copy->data_start), copy->data_end - copy->data_start);
	add_vec(&piece->io, tail_buf(op), tail_bytes(copy));
	cow_op_submit_piece(op, piece);
	return cow_task_wait_io(task);
}

/* ---- chunks, for clusters larger than the bounce buffer ---- */

static enum cow_next copy_chunk(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_copy *copy = &op->copy;
	stand_on_copy(op);
	copy->chunk = copy->chunk_end;
	if (copy->chunk >= copy->data_start && copy->chunk < copy->data_end)
		copy->chunk = copy->data_end;
	if (copy->chunk == copy->fill_end) {
		copy->chunk = copy->data_start;
		return cow_task_goto(task, &step_write_data);
	}
	uint64_t stop = copy->chunk < copy->data_start ? copy->data_start : copy->fill_end;
	copy->chunk_end = cow_min(stop, copy->chunk + COW_BOUNCE_BYTES);
	cow_reader_begin(&op->reader, copy->chunk, copy->chunk_end, op->bounce);
	return cow_task_goto(task, &step_chunk_read);
}

static enum cow_next copy_read_chunk(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_copy *copy = &op->copy;
	cow_assert(op->bounce);
	stand_on_copy(op);
	enum cow_next next = cow_reader_read(op, &op->reader);
	if (next != COW_AGAIN || task->error)
		return next;
	task->step = &step_chunk_write;
	cow_data_write(op, cow_op_piece(op), host_of(copy, copy->chunk), copy->chunk, op->bounce,
		       copy->chunk_end - copy->chunk);
	return COW_AGAIN;
}

static enum cow_next copy_write_chunk(struct cow_task *task)
{
	return task->pending ? cow_task_wait_io(task) : cow_task_goto(task, &step_chunk);
}

static enum cow_next copy_write_data(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_copy *copy = &op->copy;
	stand_on_copy(op);
	struct cow_piece *piece = cow_op_piece(op);
	uint64_t max = cow_data_max_bytes(cow_op_image(op));
	if (!piece || (op->bounce && task->pending)) /* one bounce buffer: one write at a time */
		return cow_task_wait_io(task);
	uint64_t off = copy->chunk, bytes = cow_min(copy->data_end - off, max);
	copy->chunk += bytes;
	if (copy->chunk == copy->data_end)
		task->step = &step_written;
	cow_data_write(op, piece, host_of(copy, off), off, cow_op_data(op, off), bytes);
	return COW_AGAIN;
}

/* ---- publishing ---- */

static enum cow_next copy_written(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	stand_on_copy(op);
	if (task->pending)
		return cow_task_wait_io(task);
	cow_op_put_bounce(op);
	return cow_task_goto(task, &step_publish);
}

/* The entry of the i-th cluster of the copy, instead of old. */
static struct cow_l2_entry new_entry(const struct cow_geometry *g, const struct cow_copy *copy,
				     const struct cow_entry *old, uint32_t i)
{
	struct cow_l2_entry e = cow_entry_full(g, copy->host.v + ((uint64_t)i << g->cluster_bits));
	if (copy->fill_end - copy->fill_start < g->cluster_bytes) {
		uint64_t filled =
			cow_entry_subs(g, copy->fill_start, copy->fill_end - copy->fill_start);
		e.subs = (old->subs | filled) & ~(filled << 32);
	}
	return e;
}

static void switch_entries(struct cow_op *op, struct cow_slot *slot)
{
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->core.g;
	struct cow_copy *copy = &op->copy;
	uint32_t idx = cow_l2_slice_idx(g, (struct cow_goff){ copy->start });
	uint32_t nr = (uint32_t)((copy->end - copy->start) >> g->cluster_bits);
	for (uint32_t i = 0; i < nr; i++) {
		struct cow_entry old =
			cow_entry_decode(g, cow_entry_get(g, slot->data, idx + i), 0);
		if (copy->allocated)
			cow_mapping_free_entry(image, &old);
		cow_entry_set(g, slot->data, idx + i, new_entry(g, copy, &old, i));
	}
}

static enum cow_next copy_publish(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	struct cow_copy *copy = &op->copy;
	enum cow_next next;
	stand_on_copy(op);
	uint64_t table = cow_mapping_writable_table(op, copy->start, &next);
	cow_assert(table); /* was writable under look, and tables stay so until a freeze */
	struct cow_slot *slot = cow_mapping_slot(op, table, copy->start);
	if (!slot || !cow_cache_may_dirty(slot, task))
		return COW_WAIT;
	atomic_store(&image->core.commit.ordered_data, true); /* before the entry can be captured */
	switch_entries(op, slot);
	cow_cache_put_dirty(slot);
	copy->holds_host = false;
	op->cursor = copy->data_end;
	cow_op_put_room(op);
	cow_claims_drop(&image->claims, &op->claim);
	cow_quarantine_kick(&image->quarantine, task->loop);
	return cow_task_goto(task, op->map);
}

const struct cow_step cow_copy_step = { "copy: claim", copy_claim };
static const struct cow_step step_quiet = { "copy: quiet", copy_quiet };
static const struct cow_step step_look = { "copy: look", copy_look };
static const struct cow_step step_fill = { "copy: fill", copy_fill };
static const struct cow_step step_read_head = { "copy: read head", copy_read_head };
static const struct cow_step step_read_tail = { "copy: read tail", copy_read_tail };
static const struct cow_step step_write_merged = { "copy: write merged", copy_write_merged };
static const struct cow_step step_chunk = { "copy: chunk", copy_chunk };
static const struct cow_step step_chunk_read = { "copy: read chunk", copy_read_chunk };
static const struct cow_step step_chunk_write = { "copy: write chunk", copy_write_chunk };
static const struct cow_step step_write_data = { "copy: write data", copy_write_data };
static const struct cow_step step_written = { "copy: written", copy_written };
static const struct cow_step step_publish = { "copy: publish", copy_publish };
