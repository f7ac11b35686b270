/* SPDX-License-Identifier: MIT */
/* See writeback.h. In this order: a pass; set-up. */
#include "engine/meta/writeback.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/container.h"
#include "engine/base/full.h"
#include "engine/base/pages.h"
#include "engine/meta/meta.h"

static const struct cow_step step_capture, step_phase, step_write, step_barrier, step_last_sync,
	step_unwind;

static struct cow_writeback *of(struct cow_task *task)
{
	return cow_container_of(task, struct cow_writeback, task);
}

void cow_writeback_watch(struct cow_writeback *wb, struct cow_written *written)
{
	cow_mutex_lock(&wb->commit->lock);
	wb->written = written;
	cow_mutex_unlock(&wb->commit->lock);
}

static size_t table_blocks(const struct cow_writeback *wb)
{
	return wb->meta->core->limits.dirty_blocks + COW_TABLE_SLACK;
}

/* That a pass can have: all that may be dirty, and the header. */
static size_t max_writes(const struct cow_writeback *wb)
{
	return wb->meta->refs.max_dirty + wb->meta->l2.max_dirty + table_blocks(wb) + 1;
}

/* ---- a pass ---- */

/* What each step stands on: the one pass of the image is this one, so that nobody changes who runs. */
COW_NO_ANALYSIS
static void stand_on_pass(const struct cow_writeback *wb)
{
	cow_assert(wb->commit->running && wb->commit->task == &wb->task);
	cow_assert(wb->phase <= COW_NR_PHASES && wb->next_write <= wb->nr_writes);
}

/* Most dependent first; see writeback.h. */
static enum cow_next writeback_capture(struct cow_task *task)
{
	struct cow_writeback *wb = of(task);
	struct cow_meta *meta = wb->meta;
	cow_commit_begin(wb->commit);

	wb->nr_passes++;
	wb->commit->watch.captured(wb->commit->watch.ctx);
	wb->had_ordered = atomic_exchange(&wb->commit->ordered_data, false);
	wb->has_header = atomic_exchange(&wb->commit->header_dirty, false);
	if (wb->has_header)
		cow_core_header_encode(meta->core, wb->header_buf);
	wb->nr_l1 = cow_table_capture(&meta->l1, wb->l1_buf, wb->l1);
	wb->nr_l2 = cow_cache_capture(&meta->l2, wb->l2_buf, wb->l2);
	/*
	 * Data whose entries were published before L2 was captured: this is the last moment to
	 * learn of it.
	 */
	if (atomic_exchange(&wb->commit->ordered_data, false))
		wb->had_ordered = true;
	wb->nr_reftable = cow_table_capture(&meta->reftable, wb->reftable_buf, wb->reftable);
	wb->nr_refs = cow_cache_capture(&meta->refs, wb->refs_buf, wb->refs);
	wb->need_barrier = false;
	wb->phase = COW_PHASE_REFS;
	if (!cow_core_is_whole(meta->core, task->loop) || cow_core_is_failed(meta->core)) {
		/* all that may still be written: the corrupt bit */
		wb->phase = COW_PHASE_HEADER;
		wb->has_header = wb->has_header && cow_core_is_marked_corrupt(meta->core);
	}
	return cow_task_goto(task, &step_phase);
}

static void add_write(struct cow_writeback *wb, uint64_t off, uint64_t bytes, uint8_t *data)
{
	struct cow_extent_write *last = wb->nr_writes ? &wb->writes[wb->nr_writes - 1] : NULL;
	if (last && last->off + last->bytes == off && last->data + last->bytes == data) {
		last->bytes += bytes;
		return;
	}
	cow_assert(wb->nr_writes < max_writes(wb));
	wb->writes[wb->nr_writes++] =
		(struct cow_extent_write){ .off = off, .bytes = bytes, .data = data };
}

static void add_slices(struct cow_writeback *wb, const struct cow_captured *list, unsigned nr)
{
	uint32_t bytes = wb->meta->core->g.slice_bytes;
	for (unsigned i = 0; i < nr; i++)
		add_write(wb, list[i].off, bytes, list[i].copy);
}

static void add_blocks(struct cow_writeback *wb, const struct cow_table_block *list, unsigned nr,
		       uint8_t *buf)
{
	for (unsigned i = 0; i < nr; i++)
		add_write(wb, list[i].off, COW_TABLE_BLOCK_BYTES,
			  buf + (size_t)i * COW_TABLE_BLOCK_BYTES);
}

static void list_writes(struct cow_writeback *wb)
{
	wb->nr_writes = 0;
	wb->next_write = 0;
	switch (wb->phase) {
	case COW_PHASE_REFS:
		add_slices(wb, wb->refs, wb->nr_refs);
		break;
	case COW_PHASE_REFTABLE:
		add_blocks(wb, wb->reftable, wb->nr_reftable, wb->reftable_buf);
		break;
	case COW_PHASE_L2:
		add_slices(wb, wb->l2, wb->nr_l2);
		break;
	case COW_PHASE_L1:
		add_blocks(wb, wb->l1, wb->nr_l1, wb->l1_buf);
		break;
	case COW_PHASE_HEADER:
		if (wb->has_header)
			add_write(wb, 0, 512, wb->header_buf);
		break;
	case COW_NR_PHASES:
		break;
	}
}

/*
 * Must something be durable before this phase's writes? Refcounts come first and wait for nothing.
 * L2 waits for refcounts and ordered data of this pass, if any. The rest (rare) always waits: new
 * L2 tables and a new refcount table are written outside of passes.
 */
static bool wants_barrier(const struct cow_writeback *wb)
{
	switch (wb->phase) {
	case COW_PHASE_REFS:
		return false;
	case COW_PHASE_L2:
		return wb->need_barrier || wb->had_ordered;
	default:
		return true;
	}
}

static enum cow_next writeback_phase(struct cow_task *task)
{
	struct cow_writeback *wb = of(task);
	stand_on_pass(wb);
	cow_assert(!task->pending); /* a phase begins when the one before is through */
	for (; wb->phase < COW_NR_PHASES; wb->phase++) {
		list_writes(wb);
		if (wb->nr_writes)
			return cow_task_goto(task, wants_barrier(wb) ? &step_barrier : &step_write);
	}
	return cow_task_goto(task, &step_last_sync);
}

static void io_done(struct cow_io *io)
{
	struct cow_writeback_io *w = (struct cow_writeback_io *)io;
	cow_assert(w->busy);
	w->busy = false;
	cow_task_io_done(&w->wb->task, io->result);
}

static void submit_sync_of(struct cow_writeback *wb, struct cow_writeback_io *w,
			   struct cow_file *file)
{
	cow_assert(!w->busy);
	w->busy = true;
	wb->nr_syncs++;
	cow_io_prep(&w->io, COW_IO_SYNC, file, 0, 0, io_done);
	wb->task.pending++;
	cow_loop_submit(wb->task.loop, &w->io);
}

/* It is for all that was written before: nothing of that is still on its way. */
static void submit_sync(struct cow_writeback *wb)
{
	struct cow_meta *meta = wb->meta;
	stand_on_pass(wb);
	cow_assert(!wb->task.pending);
	submit_sync_of(wb, &wb->ios[0], meta->core->file);
	if (meta->core->data != meta->core->file)
		submit_sync_of(wb, &wb->ios[1], meta->core->data);
}

static bool sync_broke(const struct cow_writeback *wb)
{
	return (wb->ios[0].io.kind == COW_IO_SYNC && wb->ios[0].io.result) ||
	       (wb->ios[1].io.kind == COW_IO_SYNC && wb->ios[1].io.result);
}

/* A failed fdatasync may have thrown away what it was to write: nothing can be trusted after it. */
static int sync_failed(struct cow_writeback *wb)
{
	return cow_core_fail(wb->meta->core, wb->task.loop, "fdatasync failed: %s",
			     strerror(-wb->task.error));
}

static const struct cow_step step_barrier_done, step_last_sync_done;

static enum cow_next writeback_barrier(struct cow_task *task)
{
	submit_sync(of(task));
	task->step = &step_barrier_done;
	return cow_task_wait_io(task);
}

static enum cow_next writeback_barrier_done(struct cow_task *task)
{
	struct cow_writeback *wb = of(task);
	stand_on_pass(wb);
	if (task->pending)
		return cow_task_wait_io(task);
	wb->need_barrier = false;
	wb->had_ordered = false;
	return cow_task_goto(task, &step_write);
}

static void submit_write(struct cow_writeback *wb, struct cow_writeback_io *w,
			 struct cow_extent_write *x)
{
	w->busy = true;
	cow_io_prep_rw(&w->io, COW_IO_WRITE, wb->meta->core->file, x->off, x->data, x->bytes,
		       io_done);
	wb->task.pending++;
	cow_loop_submit(wb->task.loop, &w->io);
}

static enum cow_next writeback_write(struct cow_task *task)
{
	struct cow_writeback *wb = of(task);
	stand_on_pass(wb);
	/* what L2 leads to is durable: refcounts, and data that it may not go before */
	cow_assert(wb->phase != COW_PHASE_L2 || !wants_barrier(wb));
	for (unsigned i = 0;
	     i < wb->meta->core->limits.pass_writes && wb->next_write < wb->nr_writes; i++)
		if (!wb->ios[i].busy)
			submit_write(wb, &wb->ios[i], &wb->writes[wb->next_write++]);
	if (task->pending)
		return cow_task_wait_io(task);
	if (wb->next_write < wb->nr_writes)
		return COW_AGAIN;
	wb->need_barrier = true;
	wb->phase++;
	return cow_task_goto(task, &step_phase);
}

static enum cow_next writeback_last_sync(struct cow_task *task)
{
	submit_sync(of(task));
	task->step = &step_last_sync_done;
	return cow_task_wait_io(task);
}

static void note_written_locked(struct cow_writeback *wb, const struct cow_captured *list,
				unsigned nr) COW_REQUIRES(commit, wb->commit->lock);
static void note_written_locked(struct cow_writeback *wb, const struct cow_captured *list,
				unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		cow_written_note(wb->written, list[i].off, wb->meta->core->g.slice_bytes);
}

/* After an error as well: any part of it may have been written. */
static void tell_watcher(struct cow_writeback *wb)
{
	cow_mutex_lock(&wb->commit->lock);
	if (wb->written) {
		note_written_locked(wb, wb->refs, wb->nr_refs);
		note_written_locked(wb, wb->l2, wb->nr_l2);
	}
	cow_mutex_unlock(&wb->commit->lock);
}

/* Give back what was captured, as written or as dirty again. */
static void complete(struct cow_writeback *wb, int error)
{
	struct cow_meta *meta = wb->meta;
	cow_assert(!wb->task.pending && (error || wb->phase == COW_NR_PHASES));
	if (error) {
		atomic_store(&wb->commit->ordered_data, true);
		if (wb->has_header)
			atomic_store(&wb->commit->header_dirty, true);
	}
	tell_watcher(wb);
	cow_cache_complete(&meta->refs, wb->refs, wb->nr_refs, error);
	cow_table_complete(&meta->reftable, wb->reftable, wb->nr_reftable, error);
	cow_cache_complete(&meta->l2, wb->l2, wb->nr_l2, error);
	cow_table_complete(&meta->l1, wb->l1, wb->nr_l1, error);
	wb->commit->watch.completed(wb->commit->watch.ctx, !error);
}

static enum cow_next writeback_last_sync_done(struct cow_task *task)
{
	struct cow_writeback *wb = of(task);
	stand_on_pass(wb);
	if (task->pending)
		return cow_task_wait_io(task);
	if (cow_core_is_failed(wb->meta->core)) {
		cow_task_fail(task, -EIO);
		return COW_AGAIN;
	}
	complete(wb, 0);
	return COW_END;
}

static enum cow_next writeback_unwind(struct cow_task *task)
{
	struct cow_writeback *wb = of(task);
	struct cow_meta *meta = wb->meta;
	stand_on_pass(wb);
	if (task->pending)
		return cow_task_wait_io(task);
	if (sync_broke(wb) && !cow_core_is_failed(meta->core))
		sync_failed(wb);
	else if (!cow_full_is(task->error) && !cow_core_is_failed(meta->core))
		cow_core_fail(meta->core, task->loop, "cannot write metadata: %s",
			      strerror(-task->error));
	task->error = cow_full_is(task->error) ? -ENOSPC : -EIO;
	complete(wb, task->error);
	return COW_END;
}

static void end(struct cow_task *task)
{
	cow_commit_end(of(task)->commit, task->error);
}

static const struct cow_step step_capture = { "writeback: capture", writeback_capture };
static const struct cow_step step_phase = { "writeback: phase", writeback_phase };
static const struct cow_step step_barrier = { "writeback: barrier", writeback_barrier };
static const struct cow_step step_barrier_done = { "writeback: barrier done",
						   writeback_barrier_done };
static const struct cow_step step_write = { "writeback: write", writeback_write };
static const struct cow_step step_last_sync = { "writeback: last sync", writeback_last_sync };
static const struct cow_step step_last_sync_done = { "writeback: last sync done",
						     writeback_last_sync_done };
static const struct cow_step step_unwind = { "writeback: unwind", writeback_unwind };

/* ---- set-up ---- */

static bool alloc_buffers(struct cow_writeback *wb)
{
	struct cow_meta *meta = wb->meta;
	size_t slice = meta->core->g.slice_bytes;
	size_t blocks = table_blocks(wb);
	wb->refs = calloc(meta->refs.max_dirty, sizeof(*wb->refs));
	wb->l2 = calloc(meta->l2.max_dirty, sizeof(*wb->l2));
	wb->l1 = calloc(blocks, sizeof(*wb->l1));
	wb->reftable = calloc(blocks, sizeof(*wb->reftable));
	wb->refs_buf = cow_pages_reserve(meta->refs.max_dirty * slice);
	wb->l2_buf = cow_pages_reserve(meta->l2.max_dirty * slice);
	wb->l1_buf = cow_pages_reserve(blocks * COW_TABLE_BLOCK_BYTES);
	wb->reftable_buf = cow_pages_reserve(blocks * COW_TABLE_BLOCK_BYTES);
	wb->header_buf = cow_buf_alloc(512);
	wb->writes = calloc(max_writes(wb), sizeof(*wb->writes));
	return wb->refs && wb->l2 && wb->l1 && wb->reftable && wb->refs_buf && wb->l2_buf &&
	       wb->l1_buf && wb->reftable_buf && wb->header_buf && wb->writes;
}

int cow_writeback_init(struct cow_writeback *wb, struct cow_meta *meta)
{
	memset(wb, 0, sizeof(*wb));
	wb->meta = meta;
	wb->commit = &meta->core->commit;
	cow_task_init(&wb->task, &step_unwind, end);
	wb->commit->task = &wb->task;
	wb->commit->first_step = &step_capture;
	for (unsigned i = 0; i < COW_WRITEBACK_IOS; i++)
		wb->ios[i].wb = wb;
	return alloc_buffers(wb) ? 0 : -ENOMEM;
}

/* Of the caches: with their slots (life/image_memory.c). */
static void take_blocks(struct cow_writeback *wb, size_t blocks)
{
	cow_pages_take(wb->l1_buf, blocks * COW_TABLE_BLOCK_BYTES);
	cow_pages_take(wb->reftable_buf, blocks * COW_TABLE_BLOCK_BYTES);
}

void cow_writeback_take_all(struct cow_writeback *wb)
{
	take_blocks(wb, table_blocks(wb));
}

void cow_writeback_take_some(struct cow_writeback *wb)
{
	take_blocks(wb, COW_TABLE_SLACK);
}

/* A pass that runs uses what it has captured. */
void cow_writeback_rest(struct cow_writeback *wb)
{
	struct cow_meta *meta = wb->meta;
	size_t slice = meta->core->g.slice_bytes;
	cow_mutex_lock(&wb->commit->lock);
	if (!wb->commit->running) {
		unsigned refs = atomic_load(&meta->refs.dirty_room);
		unsigned l2 = atomic_load(&meta->l2.dirty_room);
		cow_pages_give_back(wb->refs_buf + refs * slice,
				    (meta->refs.max_dirty - refs) * slice);
		cow_pages_give_back(wb->l2_buf + l2 * slice, (meta->l2.max_dirty - l2) * slice);
	}
	cow_mutex_unlock(&wb->commit->lock);
}

void cow_writeback_fini(struct cow_writeback *wb)
{
	free(wb->refs);
	free(wb->l2);
	free(wb->l1);
	free(wb->reftable);
	if (wb->meta) {
		size_t slice = wb->meta->core->g.slice_bytes, blocks = table_blocks(wb);
		cow_pages_free(wb->refs_buf, wb->meta->refs.max_dirty * slice);
		cow_pages_free(wb->l2_buf, wb->meta->l2.max_dirty * slice);
		cow_pages_free(wb->l1_buf, blocks * COW_TABLE_BLOCK_BYTES);
		cow_pages_free(wb->reftable_buf, blocks * COW_TABLE_BLOCK_BYTES);
	}
	free(wb->header_buf);
	free(wb->writes);
	memset(wb, 0, sizeof(*wb));
}
