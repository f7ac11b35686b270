/* SPDX-License-Identifier: MIT */
/*
 * The refill task: baton -> pick (-> look.c) -> scan (-> new refcount block | larger refcount table -> scan) -> checked
 * -> extend -> punch -> finish.
 *
 * A new refcount block lies in the first cluster of the range that it describes. Its zeros are
 * written before its table entry is set in memory; writeback brings its refcounts to disk before
 * the entry (phases REFS, REFTABLE).
 */
#include "engine/space/refill.h"

#include <errno.h>
#include <string.h>

#include "engine/base/full.h"
#include "engine/base/math.h"
#include "engine/meta/meta.h"
#include "engine/meta/refcount.h"
#include "engine/space/extend.h"
#include "engine/space/look.h"
#include "engine/space/quarantine.h"
#include "engine/space/reftable_grow.h"

static const struct cow_step step_baton, step_pick, step_scan, step_block, step_block_zero,
	step_block_link, step_extend, step_punch, step_punched, step_finish;

/* What each step behind the baton stands on. */
static void stand_on_baton(const struct cow_reserve *r)
{
	cow_assert(r->refilling && r->has_baton);
	cow_assert(r->nr_fresh <= COW_RESERVE_EXTENTS);
}

/* ---- the baton ---- */

/* What earlier refills took and could not use. No more than a refill takes. */
static void take_spare(struct cow_reserve *r)
{
	struct cow_alloc *alloc = r->alloc;
	cow_assert(!r->nr_fresh);
	cow_assert(alloc->nr_spare <= COW_RESERVE_EXTENTS);
	for (unsigned i = 0; i < alloc->nr_spare; i++) {
		r->fresh[r->nr_fresh++] = alloc->spare[i];
		r->fresh_clusters += alloc->spare[i].nr;
	}
	alloc->nr_spare = 0;
}

static void keep_spare(struct cow_reserve *r, unsigned from)
{
	struct cow_alloc *alloc = r->alloc;
	cow_assert(from == r->nr_fresh || r->has_baton);
	for (unsigned i = from; i < r->nr_fresh; i++)
		alloc->spare[alloc->nr_spare++] = r->fresh[i];
	r->nr_fresh = 0;
	r->fresh_clusters = 0;
}

/* The fields of a refill, but the spare ones, are what the one before left behind. */
static enum cow_next refill_begin(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	r->nr_fresh = 0;
	r->fresh_clusters = 0;
	r->io.result = 0; /* see cannot_grow() */
	return cow_task_goto(task, &step_baton);
}

static enum cow_next refill_baton(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	struct cow_alloc *alloc = r->alloc;
	cow_assert(r->refilling && !r->has_baton && !task->pending);
	cow_mutex_lock(&alloc->lock);
	bool mine = !alloc->busy;
	if (mine) {
		alloc->busy = true;
	} else {
		cow_waitlist_park(&alloc->waiters, task, "another queue's refill");
	}
	cow_mutex_unlock(&alloc->lock);
	if (!mine)
		return COW_WAIT;
	r->has_baton = true;
	r->freed_seen = cow_quarantine_released(r->alloc->quarantine);
	r->block = COW_FREEMAP_NONE;
	r->looked = r->from_end;
	r->tail_is_full = false;
	take_spare(r);
	return cow_task_goto(task, &step_pick);
}

static void drop_baton(struct cow_reserve *r)
{
	struct cow_alloc *alloc = r->alloc;
	struct cow_waitlist wake;
	if (!r->has_baton)
		return;
	r->has_baton = false;
	cow_waitlist_init(&wake);
	cow_mutex_lock(&alloc->lock);
	cow_assert(alloc->busy);
	alloc->busy = false;
	cow_waitlist_take(&alloc->waiters, &wake);
	cow_mutex_unlock(&alloc->lock);
	cow_waitlist_wake(&wake, 0);
}

/* ---- pick: where to look for free clusters ---- */

static uint32_t fresh_room(const struct cow_reserve *r)
{
	return r->fresh_clusters < r->goal_clusters ? r->goal_clusters - r->fresh_clusters : 0;
}

static unsigned max_fresh(const struct cow_reserve *r)
{
	return r->alloc->core->limits.extents / 2;
}

static bool wants_more(const struct cow_reserve *r)
{
	return fresh_room(r) && r->nr_fresh < max_fresh(r);
}

static bool at_device_end(const struct cow_reserve *r)
{
	return r->alloc->file->block_device &&
	       r->scan >= r->alloc->file_bytes >> r->alloc->g->cluster_bits;
}

/* The scan has ended at r->scan: of its block nothing below that is free. */
static void note_scanned(struct cow_reserve *r)
{
	struct cow_alloc *alloc = r->alloc;
	uint64_t per_block = r->alloc->g->refs_per_block;
	if (r->block == COW_FREEMAP_NONE)
		return;
	cow_mutex_lock(&alloc->lock);
	uint64_t idx = at_device_end(r) ? per_block : r->scan - r->block * per_block;
	cow_freemap_found(&alloc->map, r->block, idx);
	alloc->tail = cow_max(alloc->tail, r->scan);
	cow_mutex_unlock(&alloc->lock);
	r->block = COW_FREEMAP_NONE;
}

static bool all_known(struct cow_reserve *r)
{
	struct cow_alloc *alloc = r->alloc;
	cow_mutex_lock(&alloc->lock);
	bool known = cow_freemap_all_known(&alloc->map, cow_look_nr_blocks(alloc));
	cow_mutex_unlock(&alloc->lock);
	return known;
}

/*
 * The lowest block that is known to have a free cluster; else some unknown ones are looked at, once
 * a refill; else the tail. Only when that is full, every unknown block.
 */
static enum cow_next refill_pick(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	struct cow_alloc *alloc = r->alloc;
	stand_on_baton(r);
	note_scanned(r);
	if (!wants_more(r))
		return cow_task_goto(task, &step_extend);
	cow_mutex_lock(&alloc->lock);
	uint64_t cluster = COW_FREEMAP_NONE;
	if (!r->from_end || r->tail_is_full)
		cluster = cow_freemap_take(&alloc->map);
	cow_mutex_unlock(&alloc->lock);
	if (cluster != COW_FREEMAP_NONE) {
		r->scan = cluster;
		r->block = cluster / r->alloc->g->refs_per_block;
		return cow_task_goto(task, &step_scan);
	}
	if ((!r->looked || r->tail_is_full) && !all_known(r)) {
		r->looked = true;
		return cow_look_start(r, &step_pick);
	}
	if (!r->tail_is_full) {
		r->scan = alloc->tail;
		return cow_task_goto(task, &step_scan);
	}
	if (!r->nr_fresh)
		cow_task_fail(task, -ENOSPC);
	return cow_task_goto(task, &step_extend);
}

/* ---- scan ---- */

static bool add_fresh(struct cow_reserve *r, uint64_t cluster)
{
	struct cow_reserved *last = r->nr_fresh ? &r->fresh[r->nr_fresh - 1] : NULL;
	if (last && last->cluster + last->nr == cluster) {
		last->nr++;
	} else {
		if (r->nr_fresh == max_fresh(r))
			return false;
		r->fresh[r->nr_fresh++] = (struct cow_reserved){ .cluster = cluster, .nr = 1 };
	}
	r->fresh_clusters++;
	return true;
}

enum scan {
	SCAN_LOOK, /* whether there is a free cluster */
	SCAN_TAKE, /* as many as there is room for */
};

/* The slice from r->scan on; r->scan is then where that stopped. True: a free cluster is there. */
static bool scan_slice(struct cow_reserve *r, struct cow_slot *slot, uint64_t end, enum scan scan)
{
	const struct cow_geometry *g = r->alloc->g;
	uint64_t first = r->scan - r->scan % g->refs_per_slice, until;
	while (r->scan < end) {
		uint64_t idx = cow_refcount_find_zero(slot->data, g->refcount_order,
						      r->scan - first, end - first);
		r->scan = first + idx;
		if (r->scan == end)
			break;
		if (cow_quarantine_blocks(r->alloc->quarantine, r->scan, &until)) {
			r->scan = cow_min(until, end);
			continue;
		}
		if (scan == SCAN_LOOK)
			return true;
		if (!fresh_room(r) || !add_fresh(r, r->scan))
			return true;
		cow_refcount_set(slot->data, g->refcount_order, idx, 1);
		r->scan++;
	}
	return false;
}

/* Behind the block that is scanned, or behind the end of a block device. */
static bool scan_is_over(const struct cow_reserve *r)
{
	const struct cow_geometry *g = r->alloc->g;
	if (r->block != COW_FREEMAP_NONE && r->scan / g->refs_per_block != r->block)
		return true;
	return at_device_end(r);
}

/* First cluster behind the slice of r->scan, or behind the end of a block device. */
static uint64_t slice_end(const struct cow_reserve *r)
{
	const struct cow_geometry *g = r->alloc->g;
	uint64_t end = (r->scan / g->refs_per_slice + 1) * g->refs_per_slice;
	if (r->alloc->file->block_device)
		end = cow_min(end, r->alloc->file_bytes >> g->cluster_bits);
	return end;
}

static enum cow_next scan_one_slice(struct cow_reserve *r, struct cow_slot *slot)
{
	uint64_t end = slice_end(r);
	if (!scan_slice(r, slot, end, SCAN_LOOK)) {
		cow_cache_put(slot);
		return COW_AGAIN;
	}
	if (!cow_cache_may_dirty(slot, &r->task))
		return COW_WAIT;
	scan_slice(r, slot, end, SCAN_TAKE);
	cow_cache_put_dirty(slot);
	return COW_AGAIN;
}

static enum cow_next end_of_tail(struct cow_reserve *r)
{
	struct cow_alloc *alloc = r->alloc;
	cow_mutex_lock(&alloc->lock);
	alloc->tail = cow_max(alloc->tail, r->scan);
	cow_mutex_unlock(&alloc->lock);
	r->tail_is_full = wants_more(r);
	return cow_task_goto(&r->task, r->tail_is_full && !r->nr_fresh ? &step_pick : &step_extend);
}

static enum cow_next refill_scan(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	stand_on_baton(r);
	while (wants_more(r) && !scan_is_over(r)) {
		struct cow_slot *slot;
		switch (cow_refcount_slot(r->alloc->meta, r->scan, task, &slot)) {
		case COW_REFS_PARKED:
			return COW_WAIT;
		case COW_REFS_NONE:
			r->new_block = r->scan / r->alloc->g->refs_per_block;
			return cow_task_goto(task, &step_block);
		case COW_REFS_BEYOND:
			if (r->nr_fresh)
				return end_of_tail(r);
			return cow_reftable_grow(r, &step_scan);
		case COW_REFS_READY:
			if (scan_one_slice(r, slot) == COW_WAIT)
				return COW_WAIT;
			break;
		}
	}
	return r->block == COW_FREEMAP_NONE ? end_of_tail(r) : cow_task_goto(task, &step_pick);
}

/* ---- a new refcount block ---- */

static uint64_t new_block_off(const struct cow_reserve *r)
{
	return r->new_block * r->alloc->g->refs_per_block << r->alloc->g->cluster_bits;
}

static enum cow_next refill_room_for_a_refcount_block(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	stand_on_baton(r);
	return cow_extend_to(r, new_block_off(r) + r->alloc->g->cluster_bytes, &step_block_zero);
}

static enum cow_next refill_new_refcount_block(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	struct cow_alloc *alloc = r->alloc;
	stand_on_baton(r);
	uint64_t off = new_block_off(r);
	const char *what = cow_overlap(alloc->meta, off, alloc->g->cluster_bytes);
	if (!off || what || !cow_cache_drop(&alloc->meta->refs, off, alloc->g->cluster_bytes)) {
		cow_task_fail(task,
			      cow_core_corrupt(alloc->core, task->loop, off,
					       "metadata in a range without a refcount block"));
		return COW_AGAIN;
	}
	cow_io_prep_rw(&r->io, COW_IO_WRITE, alloc->file, off, alloc->core->zeros,
		       alloc->g->cluster_bytes, cow_reserve_io_done);
	task->pending++;
	task->step = &step_block_link;
	cow_loop_submit(task->loop, &r->io);
	return cow_task_wait_io(task);
}

static enum cow_next refill_link_refcount_block(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	struct cow_alloc *alloc = r->alloc;
	const struct cow_geometry *g = alloc->g;
	stand_on_baton(r);
	uint64_t off = new_block_off(r);
	/*
	 * The table first: a slot that is dirty while its block is not linked would be taken for
	 * metadata in a range without a refcount block by the next refill, if this one failed here.
	 */
	if (!cow_table_may_set(&alloc->meta->reftable, r->new_block, task))
		return COW_WAIT;
	struct cow_slot *slot = cow_cache_get(&alloc->meta->refs, off, task);
	if (!slot || !cow_cache_may_dirty(slot, task))
		return COW_WAIT;
	cow_refcount_set(slot->data, g->refcount_order, 0, 1);
	cow_cache_put_dirty(slot);
	cow_overlap_add(alloc->meta, off);
	/* After the slot: a pass that captures the entry captures the refcount as well. */
	cow_table_set(&alloc->meta->reftable, r->new_block, off);
	return cow_task_goto(task, &step_scan);
}

/* ---- make it usable ---- */

static uint64_t fresh_end(const struct cow_reserve *r)
{
	uint64_t end = 0; /* they are in no order: spare ones came first */
	for (unsigned i = 0; i < r->nr_fresh; i++)
		end = cow_max(end, r->fresh[i].cluster + r->fresh[i].nr);
	return end << r->alloc->g->cluster_bits;
}

static enum cow_next refill_extend(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	stand_on_baton(r);
	unsigned bits = r->alloc->g->cluster_bits;
	for (unsigned i = 0; i < r->nr_fresh; i++) {
		uint64_t off = r->fresh[i].cluster << bits;
		if (!cow_overlap(r->alloc->meta, off, (uint64_t)r->fresh[i].nr << bits))
			continue;
		cow_task_fail(task, cow_core_corrupt(r->alloc->core, task->loop, off,
						     "live metadata has refcount 0"));
		return COW_AGAIN;
	}
	r->fresh_idx = 0;
	return cow_extend_to(r, fresh_end(r), &step_punch);
}

static bool may_punch(const struct cow_reserve *r, const struct cow_reserved *e)
{
	unsigned bits = r->alloc->g->cluster_bits;
	uint64_t off = e->cluster << bits, bytes = (uint64_t)e->nr << bits;
	return !r->alloc->cannot_punch && !r->alloc->core->no_discard &&
	       !((off | bytes) & (COW_PUNCH_ALIGN_BYTES - 1));
}

/* Clusters never used are holes. Used ones are made holes now, if the host can and may. */
static enum cow_next refill_punch(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	struct cow_alloc *alloc = r->alloc;
	stand_on_baton(r);
	unsigned bits = r->alloc->g->cluster_bits;
	for (; r->fresh_idx < r->nr_fresh; r->fresh_idx++) {
		struct cow_reserved *e = &r->fresh[r->fresh_idx];
		e->zero = e->cluster >= alloc->virgin_cluster;
		if (e->zero || !may_punch(r, e))
			continue;
		cow_io_prep(&r->io, COW_IO_PUNCH, r->alloc->file, e->cluster << bits,
			    (uint64_t)e->nr << bits, cow_reserve_io_done);
		task->pending++;
		task->step = &step_punched;
		cow_loop_submit(task->loop, &r->io);
		return cow_task_wait_io(task);
	}
	return cow_task_goto(task, &step_finish);
}

static enum cow_next refill_punched(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	stand_on_baton(r);
	cow_assert(!task->pending && r->fresh_idx < r->nr_fresh);
	r->fresh[r->fresh_idx++].zero = true;
	return cow_task_goto(task, &step_punch);
}

static void hand_over(struct cow_reserve *r)
{
	unsigned left = 0;
	cow_assert(r->pos <= r->nr);
	for (unsigned i = r->pos; i < r->nr; i++)
		if (r->extents[i].nr)
			r->extents[left++] = r->extents[i];
	r->pos = 0;
	r->nr = left;
	unsigned used = 0;
	while (used < r->nr_fresh && r->nr < r->alloc->core->limits.extents)
		r->extents[r->nr++] = r->fresh[used++];
	keep_spare(r, used); /* failed requests have handed back many pieces meanwhile */
}

static enum cow_next refill_finish(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	struct cow_alloc *alloc = r->alloc;
	stand_on_baton(r);
	uint64_t end = fresh_end(r) >> r->alloc->g->cluster_bits;
	if (alloc->virgin_cluster != UINT64_MAX)
		alloc->virgin_cluster = cow_max(alloc->virgin_cluster, end);
	atomic_store(&r->alloc->core->commit.ordered_data, true);
	hand_over(r);
	r->goal_clusters = (uint32_t)cow_min(r->goal_clusters * 2ull, r->alloc->reserve_clusters);
	return COW_END;
}

/* ---- the end ---- */

/* The host does not let the file grow; there may be free clusters where nobody has looked. */
static bool cannot_grow(struct cow_reserve *r)
{
	return r->io.kind == COW_IO_RESIZE && r->io.result && !r->tail_is_full &&
	       cow_full_is(r->task.error) && !cow_core_is_failed(r->alloc->core);
}

/* What lies behind the file's end goes back, if there is room for it on that way; else it stays. */
static void return_grown(struct cow_reserve *r)
{
	struct cow_quarantine *q = r->alloc->quarantine;
	uint64_t end = r->alloc->file_bytes >> r->alloc->g->cluster_bits;
	unsigned kept = 0;
	r->fresh_clusters = 0;
	for (unsigned i = 0; i < r->nr_fresh; i++) {
		struct cow_reserved e = r->fresh[i];
		if (e.cluster + e.nr > end && cow_quarantine_reserve(q, 1, 1)) {
			cow_quarantine_add(q, e.cluster, e.nr);
			cow_quarantine_unreserve(q, 1);
			continue;
		}
		r->fresh[kept++] = e;
		r->fresh_clusters += e.nr;
	}
	r->nr_fresh = kept;
}

static enum cow_next refill_unwind(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	if (task->pending)
		return cow_task_wait_io(task);
	/* A failed punch only means that the content of these clusters is unknown. */
	if (r->io.kind == COW_IO_PUNCH && r->io.result && !cow_core_is_failed(r->alloc->core)) {
		r->alloc->cannot_punch = r->io.result == -EOPNOTSUPP || r->alloc->cannot_punch;
		r->io.result = 0;
		task->error = 0;
		cow_assert(r->fresh_idx < r->nr_fresh);
		r->fresh[r->fresh_idx++].zero = false;
		return cow_task_goto(task, &step_punch);
	}
	note_scanned(r);
	if (cannot_grow(r)) {
		task->error = 0;
		r->io.result = 0;
		r->tail_is_full = true;
		return_grown(r);
		return cow_task_goto(task, &step_pick);
	}
	keep_spare(r, 0);
	return COW_END;
}

static void end(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	int error = cow_full_fold(task->error);
	if (error ==
	    -EOPNOTSUPP) /* a punch, while the image has failed: of no meaning to a request */
		error = -EIO;
	cow_assert(r->refilling && !r->nr_fresh); /* handed over, or kept for the next one */
	drop_baton(r);
	r->refilling = false;
	if (error)
		cow_quarantine_kick(r->alloc->quarantine, task->loop);
	/* Clusters have come since we looked: who waits tries again. */
	if (error == -ENOSPC && r->freed_seen != cow_quarantine_released(r->alloc->quarantine))
		error = 0;
	cow_waitlist_wake(&r->waiters, error);
}

static const struct cow_step step_begin = { "refill: begin", refill_begin };
static const struct cow_step step_baton = { "refill: baton", refill_baton };
static const struct cow_step step_pick = { "refill: pick", refill_pick };
static const struct cow_step step_scan = { "refill: scan", refill_scan };
static const struct cow_step step_block = { "refill: room for a refcount block",
					    refill_room_for_a_refcount_block };
static const struct cow_step step_block_zero = { "refill: new refcount block",
						 refill_new_refcount_block };
static const struct cow_step step_block_link = { "refill: link refcount block",
						 refill_link_refcount_block };
static const struct cow_step step_extend = { "refill: extend", refill_extend };
static const struct cow_step step_punch = { "refill: punch", refill_punch };
static const struct cow_step step_punched = { "refill: punched", refill_punched };
static const struct cow_step step_finish = { "refill: finish", refill_finish };
static const struct cow_step step_unwind = { "refill: unwind", refill_unwind };

void cow_refill_init(struct cow_reserve *reserve)
{
	cow_task_init(&reserve->task, &step_unwind, end);
	reserve->first_step = &step_begin;
}
