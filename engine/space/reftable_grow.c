/* SPDX-License-Identifier: MIT */
/* See reftable_grow.h. */
#include "engine/space/reftable_grow.h"

#include <errno.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/base/math.h"
#include "engine/meta/meta.h"
#include "engine/space/extend.h"
#include "engine/space/quarantine.h"

static const struct cow_step step_extend, step_write, step_switch, step_done;

static uint64_t entries_per_cluster(const struct cow_alloc *alloc)
{
	return alloc->g->cluster_bytes / 8;
}

/* Sizes of the new structures; -EFBIG past the format's limit. */
static int plan(struct cow_reserve *r)
{
	struct cow_alloc *alloc = r->alloc;
	uint64_t old = alloc->meta->reftable.nr;
	uint64_t per_block = alloc->g->refs_per_block;
	uint64_t limit = QCOW2_MAX_REFTABLE_BYTES / alloc->g->cluster_bytes;
	r->grow.at = old * per_block;
	r->grow.blocks = 1;
	for (;;) {
		uint64_t entries = cow_max(old + old / 2, old + r->grow.blocks);
		r->grow.clusters =
			(entries + entries_per_cluster(alloc) - 1) / entries_per_cluster(alloc);
		if (limit && r->grow.clusters > limit)
			r->grow.clusters = limit;
		uint64_t blocks = (r->grow.blocks + r->grow.clusters + per_block - 1) / per_block;
		if (blocks <= r->grow.blocks)
			break;
		r->grow.blocks = blocks;
	}
	if (r->grow.clusters * entries_per_cluster(alloc) < old + r->grow.blocks)
		return -EFBIG;
	if (r->grow.clusters * alloc->g->cluster_bytes > QCOW2_MAX_REFTABLE_BYTES)
		return -EFBIG;
	return 0;
}

enum cow_next cow_reftable_grow(struct cow_reserve *r, const struct cow_step *next)
{
	struct cow_alloc *alloc = r->alloc;
	cow_assert(r->has_baton && !r->task.pending);
	int ret = plan(r);
	if (ret) {
		cow_task_fail(&r->task, ret);
		return COW_AGAIN;
	}
	uint64_t total = r->grow.blocks + r->grow.clusters;
	uint64_t off = r->grow.at << alloc->g->cluster_bits,
		 bytes = total << alloc->g->cluster_bits;
	if (alloc->file->block_device && off + bytes > alloc->file_bytes) {
		cow_task_fail(&r->task, -ENOSPC);
		return COW_AGAIN;
	}
	if (cow_overlap(alloc->meta, off, bytes) ||
	    !cow_cache_drop(&alloc->meta->refs, off, bytes)) {
		cow_task_fail(&r->task,
			      cow_core_corrupt(alloc->core, r->task.loop, off,
					       "metadata beyond the refcount table's reach"));
		return COW_AGAIN;
	}
	r->grow.done = 0;
	r->grow.next = next;
	r->task.step = &step_extend;
	cow_commit_join(&alloc->core->commit, &r->task);
	return COW_WAIT;
}

static void encode_block(struct cow_reserve *r, uint64_t block, uint8_t *buf)
{
	const struct cow_geometry *g = r->alloc->g;
	uint64_t first = block * g->refs_per_block, total = r->grow.blocks + r->grow.clusters;
	memset(buf, 0, g->cluster_bytes);
	for (uint64_t i = 0; i < g->refs_per_block && first + i < total; i++)
		cow_refcount_set(buf, g->refcount_order, i, 1);
}

/* Entry idx of the new table: old entries, then the new blocks. */
static uint64_t new_entry(struct cow_reserve *r, uint64_t idx)
{
	uint64_t old = r->alloc->meta->reftable.nr;
	if (idx < old)
		return cow_table_get(&r->alloc->meta->reftable, idx);
	if (idx < old + r->grow.blocks)
		return (r->grow.at + idx - old) << r->alloc->g->cluster_bits;
	return 0;
}

static void encode_table(struct cow_reserve *r, uint64_t cluster, uint8_t *buf)
{
	uint64_t per = entries_per_cluster(r->alloc);
	for (uint64_t i = 0; i < per; i++)
		cow_store64_be(buf + i * 8, new_entry(r, cluster * per + i));
}

static uint64_t grown_end(const struct cow_reserve *r)
{
	return (r->grow.at + r->grow.blocks + r->grow.clusters) << r->alloc->g->cluster_bits;
}

static enum cow_next reftable_extend(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	return cow_extend_to(r, grown_end(r), &step_write);
}

static enum cow_next reftable_write(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	struct cow_alloc *alloc = r->alloc;
	uint8_t *buf = alloc->look_memory;
	cow_assert(r->has_baton && r->grow.done <= r->grow.blocks + r->grow.clusters);
	if (task->pending)
		return cow_task_wait_io(task);
	if (r->grow.done == r->grow.blocks + r->grow.clusters)
		return cow_task_goto(task, &step_switch);
	if (r->grow.done < r->grow.blocks)
		encode_block(r, r->grow.done, buf);
	else
		encode_table(r, r->grow.done - r->grow.blocks, buf);
	uint64_t off = (r->grow.at + r->grow.done) << alloc->g->cluster_bits;
	r->grow.done++;
	cow_io_prep_rw(&r->io, COW_IO_WRITE, alloc->file, off, buf, alloc->g->cluster_bytes,
		       cow_reserve_io_done);
	task->pending++;
	cow_loop_submit(task->loop, &r->io);
	return cow_task_wait_io(task);
}

static enum cow_next reftable_switch_header(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	struct cow_alloc *alloc = r->alloc;
	uint64_t end = grown_end(r);
	cow_assert(r->has_baton && !task->pending);
	cow_assert(r->grow.done == r->grow.blocks + r->grow.clusters); /* all of it is written */
	if (alloc->virgin_cluster != UINT64_MAX)
		alloc->virgin_cluster =
			cow_max(alloc->virgin_cluster, end >> alloc->g->cluster_bits);
	cow_mutex_lock(&alloc->core->header_lock);
	alloc->core->header.reftable_off = (r->grow.at + r->grow.blocks) << alloc->g->cluster_bits;
	alloc->core->header.reftable_clusters = (uint32_t)r->grow.clusters;
	cow_mutex_unlock(&alloc->core->header_lock);
	atomic_store(&alloc->core->commit.header_dirty, true);
	task->step = &step_done;
	/*
	 * From here on an error would leave memory and disk in doubt over which table counts: the
	 * unwinding fails the image.
	 */
	r->grow.unwind = task->unwind;
	task->unwind = &step_done;
	cow_commit_join(&alloc->core->commit, task);
	return COW_WAIT;
}

static enum cow_next reftable_done(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	struct cow_alloc *alloc = r->alloc;
	uint64_t old = alloc->meta->reftable.nr, old_off = alloc->meta->reftable.off;
	cow_assert(r->has_baton && !task->pending);
	task->unwind = r->grow.unwind;
	if (task->error) {
		cow_core_fail(alloc->core, task->loop,
			      "cannot switch to a larger refcount table: %s",
			      strerror(-task->error));
		return cow_task_goto(task, task->unwind);
	}
	cow_assert(old + r->grow.blocks <= alloc->meta->reftable.capacity);
	for (uint64_t i = 0; i < r->grow.blocks; i++) {
		uint64_t off = new_entry(r, old + i);
		cow_overlap_add(alloc->meta, off);
		atomic_store(&alloc->meta->reftable.entries[old + i], off);
	}
	cow_table_move(&alloc->meta->reftable,
		       (r->grow.at + r->grow.blocks) << alloc->g->cluster_bits,
		       r->grow.clusters * entries_per_cluster(alloc));
	uint64_t old_clusters = (old * 8 + alloc->g->cluster_bytes - 1) / alloc->g->cluster_bytes;
	cow_quarantine_add(alloc->quarantine, old_off >> alloc->g->cluster_bits,
			   (uint32_t)old_clusters);
	return cow_task_goto(task, r->grow.next);
}

static const struct cow_step step_extend = { "reftable: extend", reftable_extend };
static const struct cow_step step_write = { "reftable: write", reftable_write };
static const struct cow_step step_switch = { "reftable: switch header", reftable_switch_header };
static const struct cow_step step_done = { "reftable: done", reftable_done };
