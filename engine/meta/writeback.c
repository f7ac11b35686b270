/* SPDX-License-Identifier: MIT */
#include "engine/meta/writeback.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/pages.h"
#include "engine/image/state.h"

static const struct cow_step step_capture, step_phase, step_write, step_barrier, step_last_sync,
	step_unwind;

static struct cow_commit *of(struct cow_task *task)
{
	return (struct cow_commit *)((char *)task - offsetof(struct cow_commit, task));
}

/* ---- joining ---- */

static void start_locked(struct cow_commit *commit, struct cow_loop *loop)
{
	commit->running = true;
	commit->wanted = false;
	commit->loop = loop;
}

void cow_writeback_join(struct cow_commit *commit, struct cow_task *task)
{
	struct cow_loop *loop = task->loop;
	cow_mutex_lock(&commit->lock);
	cow_waitlist_park(&commit->joining, task);
	bool start = !commit->running && !commit->held;
	if (start)
		start_locked(commit, loop);
	cow_mutex_unlock(&commit->lock);
	if (start)
		cow_task_post(&commit->task, loop, &step_capture);
}

void cow_writeback_kick(struct cow_commit *commit, struct cow_loop *loop)
{
	cow_mutex_lock(&commit->lock);
	bool start = !commit->running && !commit->held;
	if (start)
		start_locked(commit, loop);
	else
		commit->wanted = true;
	cow_mutex_unlock(&commit->lock);
	if (start)
		cow_task_post(&commit->task, loop, &step_capture);
}

bool cow_writeback_hold(struct cow_commit *commit)
{
	cow_mutex_lock(&commit->lock);
	commit->held = !commit->running;
	bool held = commit->held;
	cow_mutex_unlock(&commit->lock);
	return held;
}

void cow_writeback_resume(struct cow_commit *commit, struct cow_loop *loop)
{
	cow_mutex_lock(&commit->lock);
	commit->held = false;
	bool joined = !cow_waitlist_empty(&commit->joining);
	bool start = !commit->running && (joined || commit->wanted);
	if (joined)
		loop = commit->joining.head->loop;
	if (start)
		start_locked(commit, loop);
	cow_mutex_unlock(&commit->lock);
	if (start)
		cow_task_post(&commit->task, loop, &step_capture);
}

void cow_writeback_watch(struct cow_commit *commit, struct cow_written *written)
{
	cow_mutex_lock(&commit->lock);
	commit->written = written;
	cow_mutex_unlock(&commit->lock);
}

bool cow_writeback_idle(struct cow_commit *commit)
{
	cow_mutex_lock(&commit->lock);
	bool idle = !commit->running;
	cow_mutex_unlock(&commit->lock);
	return idle;
}

bool cow_writeback_runs_on(struct cow_commit *commit, const struct cow_loop *loop)
{
	cow_mutex_lock(&commit->lock);
	bool runs = commit->running && commit->loop == loop;
	cow_mutex_unlock(&commit->lock);
	return runs;
}

/* ---- a pass ---- */

/* Most dependent first; see writeback.h. */
static enum cow_next capture(struct cow_task *task)
{
	struct cow_commit *commit = of(task);
	struct cow_image *image = commit->image;
	cow_mutex_lock(&commit->lock);
	cow_waitlist_take(&commit->joining, &commit->riding);
	commit->wanted = false;
	cow_mutex_unlock(&commit->lock);

	commit->nr_passes++;
	cow_quarantine_capture(&image->quarantine);
	commit->had_ordered = atomic_exchange(&commit->ordered_data, false);
	commit->has_header = atomic_exchange(&commit->header_dirty, false);
	if (commit->has_header)
		cow_image_header_encode(image, commit->header_buf);
	commit->nr_l1 = cow_table_capture(&image->l1, commit->l1_buf, commit->l1);
	commit->nr_l2 = cow_cache_capture(&image->l2, commit->l2_buf, commit->l2);
	/*
	 * Data whose entries were published before L2 was captured: this is the last moment to
	 * learn of it.
	 */
	if (atomic_exchange(&commit->ordered_data, false))
		commit->had_ordered = true;
	commit->nr_reftable =
		cow_table_capture(&image->reftable, commit->reftable_buf, commit->reftable);
	commit->nr_refs = cow_cache_capture(&image->refs, commit->refs_buf, commit->refs);
	commit->need_barrier = false;
	commit->phase = COW_PHASE_REFS;
	if (!cow_image_is_whole(image, task->loop) || cow_image_is_failed(image)) {
		/* all that may still be written: the corrupt bit */
		commit->phase = COW_PHASE_HEADER;
		commit->has_header = commit->has_header && image->mark_corrupt;
	}
	return cow_task_goto(task, &step_phase);
}

static void add_write(struct cow_commit *commit, uint64_t off, uint64_t bytes, uint8_t *data)
{
	struct cow_extent_write *last =
		commit->nr_writes ? &commit->writes[commit->nr_writes - 1] : NULL;
	if (last && last->off + last->bytes == off && last->data + last->bytes == data) {
		last->bytes += bytes;
		return;
	}
	commit->writes[commit->nr_writes++] =
		(struct cow_extent_write){ .off = off, .bytes = bytes, .data = data };
}

static void add_slices(struct cow_commit *commit, const struct cow_captured *list, unsigned nr)
{
	uint32_t bytes = commit->image->g.slice_bytes;
	for (unsigned i = 0; i < nr; i++)
		add_write(commit, list[i].off, bytes, list[i].copy);
}

static void add_blocks(struct cow_commit *commit, const struct cow_table_block *list, unsigned nr,
		       uint8_t *buf)
{
	for (unsigned i = 0; i < nr; i++)
		add_write(commit, list[i].off, COW_TABLE_BLOCK_BYTES,
			  buf + (size_t)i * COW_TABLE_BLOCK_BYTES);
}

static void list_writes(struct cow_commit *commit)
{
	commit->nr_writes = 0;
	commit->next_write = 0;
	switch (commit->phase) {
	case COW_PHASE_REFS:
		add_slices(commit, commit->refs, commit->nr_refs);
		break;
	case COW_PHASE_REFTABLE:
		add_blocks(commit, commit->reftable, commit->nr_reftable, commit->reftable_buf);
		break;
	case COW_PHASE_L2:
		add_slices(commit, commit->l2, commit->nr_l2);
		break;
	case COW_PHASE_L1:
		add_blocks(commit, commit->l1, commit->nr_l1, commit->l1_buf);
		break;
	case COW_PHASE_HEADER:
		if (commit->has_header)
			add_write(commit, 0, 512, commit->header_buf);
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
static bool wants_barrier(const struct cow_commit *commit)
{
	switch (commit->phase) {
	case COW_PHASE_REFS:
		return false;
	case COW_PHASE_L2:
		return commit->need_barrier || commit->had_ordered;
	default:
		return true;
	}
}

static enum cow_next phase(struct cow_task *task)
{
	struct cow_commit *commit = of(task);
	for (; commit->phase < COW_NR_PHASES; commit->phase++) {
		list_writes(commit);
		if (commit->nr_writes)
			return cow_task_goto(task,
					     wants_barrier(commit) ? &step_barrier : &step_write);
	}
	return cow_task_goto(task, &step_last_sync);
}

static void io_done(struct cow_io *io)
{
	struct cow_writeback_io *w = (struct cow_writeback_io *)io;
	w->busy = false;
	cow_task_io_done(&w->commit->task, io->result);
}

static void submit_sync_of(struct cow_commit *commit, struct cow_writeback_io *w,
			   struct cow_file *file)
{
	cow_assert(!w->busy);
	w->busy = true;
	commit->nr_syncs++;
	cow_io_prep(&w->io, COW_IO_SYNC, file, 0, 0, io_done);
	commit->task.pending++;
	cow_loop_submit(commit->task.loop, &w->io);
}

static void submit_sync(struct cow_commit *commit)
{
	struct cow_image *image = commit->image;
	submit_sync_of(commit, &commit->ios[0], image->file);
	if (image->data != image->file)
		submit_sync_of(commit, &commit->ios[1], image->data);
}

static bool sync_broke(const struct cow_commit *commit)
{
	return (commit->ios[0].io.kind == COW_IO_SYNC && commit->ios[0].io.result) ||
	       (commit->ios[1].io.kind == COW_IO_SYNC && commit->ios[1].io.result);
}

/* A failed fdatasync may have thrown away what it was to write: nothing can be trusted after it. */
static int sync_failed(struct cow_commit *commit)
{
	return cow_image_fail(commit->image, commit->task.loop, "fdatasync failed: %s",
			      strerror(-commit->task.error));
}

static const struct cow_step step_barrier_done, step_last_sync_done;

static enum cow_next barrier(struct cow_task *task)
{
	submit_sync(of(task));
	task->step = &step_barrier_done;
	return cow_task_wait_io(task);
}

static enum cow_next barrier_done(struct cow_task *task)
{
	struct cow_commit *commit = of(task);
	if (task->pending)
		return cow_task_wait_io(task);
	commit->need_barrier = false;
	commit->had_ordered = false;
	return cow_task_goto(task, &step_write);
}

static void submit_write(struct cow_commit *commit, struct cow_writeback_io *w,
			 struct cow_extent_write *x)
{
	w->busy = true;
	cow_io_prep_rw(&w->io, COW_IO_WRITE, commit->image->file, x->off, x->data, x->bytes,
		       io_done);
	commit->task.pending++;
	cow_loop_submit(commit->task.loop, &w->io);
}

static enum cow_next write_phase(struct cow_task *task)
{
	struct cow_commit *commit = of(task);
	for (unsigned i = 0;
	     i < commit->image->limits.pass_writes && commit->next_write < commit->nr_writes; i++)
		if (!commit->ios[i].busy)
			submit_write(commit, &commit->ios[i],
				     &commit->writes[commit->next_write++]);
	if (task->pending)
		return cow_task_wait_io(task);
	if (commit->next_write < commit->nr_writes)
		return COW_AGAIN;
	commit->need_barrier = true;
	commit->phase++;
	return cow_task_goto(task, &step_phase);
}

static enum cow_next last_sync(struct cow_task *task)
{
	submit_sync(of(task));
	task->step = &step_last_sync_done;
	return cow_task_wait_io(task);
}

static void note_written(struct cow_commit *commit, const struct cow_captured *list, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		cow_written_note(commit->written, list[i].off >> commit->image->g.cluster_bits);
}

/* After an error as well: any part of it may have been written. */
static void tell_watcher(struct cow_commit *commit)
{
	cow_mutex_lock(&commit->lock);
	if (commit->written) {
		note_written(commit, commit->refs, commit->nr_refs);
		note_written(commit, commit->l2, commit->nr_l2);
	}
	cow_mutex_unlock(&commit->lock);
}

/* Give back what was captured, as written or as dirty again. */
static void complete(struct cow_commit *commit, int error)
{
	struct cow_image *image = commit->image;
	if (error) {
		atomic_store(&commit->ordered_data, true);
		if (commit->has_header)
			atomic_store(&commit->header_dirty, true);
	}
	tell_watcher(commit);
	cow_cache_complete(&image->refs, commit->refs, commit->nr_refs, error);
	cow_table_complete(&image->reftable, commit->reftable, commit->nr_reftable, error);
	cow_cache_complete(&image->l2, commit->l2, commit->nr_l2, error);
	cow_table_complete(&image->l1, commit->l1, commit->nr_l1, error);
	cow_quarantine_complete(&image->quarantine, !error);
}

static enum cow_next last_sync_done(struct cow_task *task)
{
	struct cow_commit *commit = of(task);
	if (task->pending)
		return cow_task_wait_io(task);
	if (cow_image_is_failed(commit->image)) {
		cow_task_fail(task, -EIO);
		return COW_AGAIN;
	}
	complete(commit, 0);
	return COW_END;
}

static enum cow_next unwind(struct cow_task *task)
{
	struct cow_commit *commit = of(task);
	struct cow_image *image = commit->image;
	if (task->pending)
		return cow_task_wait_io(task);
	if (sync_broke(commit) && !cow_image_is_failed(image))
		sync_failed(commit);
	else if (task->error != -ENOSPC && !cow_image_is_failed(image))
		cow_image_fail(image, task->loop, "cannot write metadata: %s",
			       strerror(-task->error));
	complete(commit, task->error == -ENOSPC ? -ENOSPC : -EIO);
	return COW_END;
}

/*
 * Wake the riders; go on at once if somebody joined meanwhile, on the loop of the first who did.
 * After `running` is false another thread may start the task: nothing is touched after that.
 */
static void end(struct cow_task *task)
{
	struct cow_commit *commit = of(task);
	int error = task->error;
	if (error && error != -ENOSPC)
		error = -EIO;
	struct cow_waitlist wake;
	cow_waitlist_init(&wake);
	cow_mutex_lock(&commit->lock);
	cow_waitlist_take(&commit->riding, &wake);
	struct cow_loop *loop =
		cow_waitlist_empty(&commit->joining) ? commit->loop : commit->joining.head->loop;
	/*
	 * After an error as well: who parked for room since complete() woke the others is told by
	 * the next pass, not by this one.
	 */
	bool again = !cow_waitlist_empty(&commit->joining) || commit->wanted;
	if (again)
		start_locked(commit, loop);
	else
		commit->running = false;
	cow_mutex_unlock(&commit->lock);
	if (again)
		cow_task_post(&commit->task, loop, &step_capture);
	cow_waitlist_wake(&wake, error);
}

static const struct cow_step step_capture = { "writeback: capture", capture };
static const struct cow_step step_phase = { "writeback: phase", phase };
static const struct cow_step step_barrier = { "writeback: barrier", barrier };
static const struct cow_step step_barrier_done = { "writeback: barrier done", barrier_done };
static const struct cow_step step_write = { "writeback: write", write_phase };
static const struct cow_step step_last_sync = { "writeback: last sync", last_sync };
static const struct cow_step step_last_sync_done = { "writeback: last sync done", last_sync_done };
static const struct cow_step step_unwind = { "writeback: unwind", unwind };

/* ---- set-up ---- */

static size_t table_blocks(const struct cow_commit *commit)
{
	return commit->image->limits.dirty_blocks + COW_TABLE_SLACK;
}

static bool alloc_buffers(struct cow_commit *commit)
{
	struct cow_image *image = commit->image;
	size_t slice = image->g.slice_bytes;
	size_t blocks = table_blocks(commit);
	commit->refs = calloc(image->refs.max_dirty, sizeof(*commit->refs));
	commit->l2 = calloc(image->l2.max_dirty, sizeof(*commit->l2));
	commit->l1 = calloc(blocks, sizeof(*commit->l1));
	commit->reftable = calloc(blocks, sizeof(*commit->reftable));
	commit->refs_buf = cow_pages_reserve(image->refs.max_dirty * slice);
	commit->l2_buf = cow_pages_reserve(image->l2.max_dirty * slice);
	commit->l1_buf = cow_pages_reserve(blocks * COW_TABLE_BLOCK_BYTES);
	commit->reftable_buf = cow_pages_reserve(blocks * COW_TABLE_BLOCK_BYTES);
	commit->header_buf = cow_buf_alloc(512);
	size_t writes = image->refs.max_dirty + image->l2.max_dirty + blocks + 1;
	commit->writes = calloc(writes, sizeof(*commit->writes));
	return commit->refs && commit->l2 && commit->l1 && commit->reftable && commit->refs_buf &&
	       commit->l2_buf && commit->l1_buf && commit->reftable_buf && commit->header_buf &&
	       commit->writes;
}

int cow_writeback_init(struct cow_commit *commit, struct cow_image *image)
{
	memset(commit, 0, sizeof(*commit));
	commit->image = image;
	cow_mutex_init(&commit->lock, COW_RANK_COMMIT);
	cow_waitlist_init(&commit->joining);
	cow_waitlist_init(&commit->riding);
	cow_task_init(&commit->task, &step_unwind, end);
	for (unsigned i = 0; i < COW_WRITEBACK_IOS; i++)
		commit->ios[i].commit = commit;
	return alloc_buffers(commit) ? 0 : -ENOMEM;
}

/* A pass that runs uses what it has captured. */
void cow_writeback_rest(struct cow_commit *commit)
{
	struct cow_image *image = commit->image;
	size_t slice = image->g.slice_bytes;
	cow_mutex_lock(&commit->lock);
	if (!commit->running) {
		unsigned refs = atomic_load(&image->refs.dirty_room);
		unsigned l2 = atomic_load(&image->l2.dirty_room);
		cow_pages_give_back(commit->refs_buf + refs * slice,
				    (image->refs.max_dirty - refs) * slice);
		cow_pages_give_back(commit->l2_buf + l2 * slice,
				    (image->l2.max_dirty - l2) * slice);
	}
	cow_mutex_unlock(&commit->lock);
}

void cow_writeback_fini(struct cow_commit *commit)
{
	free(commit->refs);
	free(commit->l2);
	free(commit->l1);
	free(commit->reftable);
	if (commit->image) {
		size_t slice = commit->image->g.slice_bytes, blocks = table_blocks(commit);
		cow_pages_free(commit->refs_buf, commit->image->refs.max_dirty * slice);
		cow_pages_free(commit->l2_buf, commit->image->l2.max_dirty * slice);
		cow_pages_free(commit->l1_buf, blocks * COW_TABLE_BLOCK_BYTES);
		cow_pages_free(commit->reftable_buf, blocks * COW_TABLE_BLOCK_BYTES);
	}
	free(commit->header_buf);
	free(commit->writes);
	memset(commit, 0, sizeof(*commit));
}
