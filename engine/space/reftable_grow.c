/* SPDX-License-Identifier: MIT */
/*
 * A larger refcount table. At the first host cluster that the old table cannot describe stand, one
 * after the other: as many refcount blocks as it takes to describe themselves and the new table,
 * then the new table. Order (FORMAT.md 4): all of that | header
 * (offset and clusters in one write) | free the old table.
 *
 * The baton is held throughout, and a pass is joined first, so that no entry of the old table is
 * dirty: what is copied is durable.
 */
#include <errno.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/base/math.h"
#include "engine/image/state.h"
#include "engine/space/refill.h"

static const struct cow_step step_extend, step_write, step_switch, step_done;

static struct cow_reserve *of(struct cow_task *task)
{
	return (struct cow_reserve *)((char *)task - offsetof(struct cow_reserve, task));
}

static void io_done(struct cow_io *io)
{
	struct cow_reserve *r =
		(struct cow_reserve *)((char *)io - offsetof(struct cow_reserve, io));
	cow_task_io_done(&r->task, io->result);
}

static uint64_t entries_per_cluster(const struct cow_image *image)
{
	return image->core.g.cluster_bytes / 8;
}

/* Sizes of the new structures; -EFBIG past the format's limit. */
static int plan(struct cow_reserve *r)
{
	struct cow_image *image = r->image;
	uint64_t old = image->meta.reftable.nr;
	uint64_t per_block = image->core.g.refs_per_block;
	uint64_t limit = QCOW2_MAX_REFTABLE_BYTES / image->core.g.cluster_bytes;
	r->grow.at = old * per_block;
	r->grow.blocks = 1;
	for (;;) {
		uint64_t entries = cow_max(old + old / 2, old + r->grow.blocks);
		r->grow.clusters =
			(entries + entries_per_cluster(image) - 1) / entries_per_cluster(image);
		if (limit && r->grow.clusters > limit)
			r->grow.clusters = limit;
		uint64_t blocks = (r->grow.blocks + r->grow.clusters + per_block - 1) / per_block;
		if (blocks <= r->grow.blocks)
			break;
		r->grow.blocks = blocks;
	}
	if (r->grow.clusters * entries_per_cluster(image) < old + r->grow.blocks)
		return -EFBIG;
	if (r->grow.clusters * image->core.g.cluster_bytes > QCOW2_MAX_REFTABLE_BYTES)
		return -EFBIG;
	return 0;
}

enum cow_next cow_reftable_grow(struct cow_reserve *r)
{
	struct cow_image *image = r->image;
	int ret = plan(r);
	if (ret) {
		cow_task_fail(&r->task, ret);
		return COW_AGAIN;
	}
	uint64_t total = r->grow.blocks + r->grow.clusters;
	uint64_t off = r->grow.at << image->core.g.cluster_bits,
		 bytes = total << image->core.g.cluster_bits;
	if (image->core.file->block_device && off + bytes > image->alloc.file_bytes) {
		cow_task_fail(&r->task, -ENOSPC);
		return COW_AGAIN;
	}
	if (cow_overlap(&image->meta, off, bytes) ||
	    !cow_cache_drop(&image->meta.refs, off, bytes)) {
		cow_task_fail(&r->task,
			      cow_core_corrupt(&image->core, r->task.loop, off,
					       "metadata beyond the refcount table's reach"));
		return COW_AGAIN;
	}
	r->grow.done = 0;
	r->task.step = &step_extend;
	cow_commit_join(&image->core.commit, &r->task);
	return COW_WAIT;
}

static void encode_block(struct cow_reserve *r, uint64_t block, uint8_t *buf)
{
	const struct cow_geometry *g = &r->image->core.g;
	uint64_t first = block * g->refs_per_block, total = r->grow.blocks + r->grow.clusters;
	memset(buf, 0, g->cluster_bytes);
	for (uint64_t i = 0; i < g->refs_per_block && first + i < total; i++)
		cow_refcount_set(buf, g->refcount_order, i, 1);
}

/* Entry idx of the new table: old entries, then the new blocks. */
static uint64_t new_entry(struct cow_reserve *r, uint64_t idx)
{
	uint64_t old = r->image->meta.reftable.nr;
	if (idx < old)
		return cow_table_get(&r->image->meta.reftable, idx);
	if (idx < old + r->grow.blocks)
		return (r->grow.at + idx - old) << r->image->core.g.cluster_bits;
	return 0;
}

static void encode_table(struct cow_reserve *r, uint64_t cluster, uint8_t *buf)
{
	uint64_t per = entries_per_cluster(r->image);
	for (uint64_t i = 0; i < per; i++)
		cow_store64_be(buf + i * 8, new_entry(r, cluster * per + i));
}

static uint64_t grown_end(const struct cow_reserve *r)
{
	return (r->grow.at + r->grow.blocks + r->grow.clusters) << r->image->core.g.cluster_bits;
}

static enum cow_next extend(struct cow_task *task)
{
	struct cow_reserve *r = of(task);
	return cow_refill_extend(r, grown_end(r), &step_write);
}

static enum cow_next write_next(struct cow_task *task)
{
	struct cow_reserve *r = of(task);
	struct cow_image *image = r->image;
	uint8_t *buf = image->alloc.look_memory;
	if (task->pending)
		return cow_task_wait_io(task);
	if (r->grow.done == r->grow.blocks + r->grow.clusters)
		return cow_task_goto(task, &step_switch);
	if (r->grow.done < r->grow.blocks)
		encode_block(r, r->grow.done, buf);
	else
		encode_table(r, r->grow.done - r->grow.blocks, buf);
	uint64_t off = (r->grow.at + r->grow.done) << image->core.g.cluster_bits;
	r->grow.done++;
	cow_io_prep_rw(&r->io, COW_IO_WRITE, image->core.file, off, buf,
		       image->core.g.cluster_bytes, io_done);
	task->pending++;
	cow_loop_submit(task->loop, &r->io);
	return cow_task_wait_io(task);
}

static enum cow_next switch_header(struct cow_task *task)
{
	struct cow_reserve *r = of(task);
	struct cow_image *image = r->image;
	uint64_t end = grown_end(r);
	if (image->alloc.virgin_cluster != UINT64_MAX)
		image->alloc.virgin_cluster =
			cow_max(image->alloc.virgin_cluster, end >> image->core.g.cluster_bits);
	cow_mutex_lock(&image->core.header_lock);
	image->core.header.reftable_off = (r->grow.at + r->grow.blocks)
					  << image->core.g.cluster_bits;
	image->core.header.reftable_clusters = (uint32_t)r->grow.clusters;
	cow_mutex_unlock(&image->core.header_lock);
	atomic_store(&image->core.commit.header_dirty, true);
	task->step = &step_done;
	/*
	 * From here on an error would leave memory and disk in doubt over which table counts: the
	 * unwinding fails the image.
	 */
	task->unwind = &step_done;
	cow_commit_join(&image->core.commit, task);
	return COW_WAIT;
}

static enum cow_next done(struct cow_task *task)
{
	struct cow_reserve *r = of(task);
	struct cow_image *image = r->image;
	uint64_t old = image->meta.reftable.nr, old_off = image->meta.reftable.off;
	task->unwind = &cow_refill_unwind;
	if (task->error) {
		cow_core_fail(&image->core, task->loop,
			      "cannot switch to a larger refcount table: %s",
			      strerror(-task->error));
		return cow_task_goto(task, task->unwind);
	}
	for (uint64_t i = 0; i < r->grow.blocks; i++) {
		uint64_t off = new_entry(r, old + i);
		cow_overlap_add(&image->meta, off);
		atomic_store(&image->meta.reftable.entries[old + i], off);
	}
	cow_table_move(&image->meta.reftable,
		       (r->grow.at + r->grow.blocks) << image->core.g.cluster_bits,
		       r->grow.clusters * entries_per_cluster(image));
	uint64_t old_clusters =
		(old * 8 + image->core.g.cluster_bytes - 1) / image->core.g.cluster_bytes;
	cow_quarantine_add(&image->quarantine, old_off >> image->core.g.cluster_bits,
			   (uint32_t)old_clusters);
	return cow_refill_scan_again(r);
}

static const struct cow_step step_extend = { "reftable: extend", extend };
static const struct cow_step step_write = { "reftable: write", write_next };
static const struct cow_step step_switch = { "reftable: switch header", switch_header };
static const struct cow_step step_done = { "reftable: done", done };
