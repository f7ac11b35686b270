/* SPDX-License-Identifier: MIT */
#include "engine/space/extend.h"

#include <errno.h>

#include "engine/base/math.h"
#include "engine/core/core.h"

#define EXTEND_MIN_BYTES (8ull << 20)
#define EXTEND_MAX_BYTES (256ull << 20)

static enum cow_next refill_extended(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	cow_assert(r->has_baton && !task->pending);
	cow_assert(r->io.kind == COW_IO_RESIZE && r->io.offset > r->alloc->file_bytes);
	r->alloc->file_bytes = r->io.offset;
	return cow_task_goto(task, r->after_extend);
}

static const struct cow_step step_extended = { "refill: extended", refill_extended };

enum cow_next cow_extend_to(struct cow_reserve *r, uint64_t end, const struct cow_step *next)
{
	struct cow_alloc *alloc = r->alloc;
	cow_assert(r->has_baton && !r->task.pending);
	r->after_extend = next;
	if (end <= alloc->file_bytes)
		return cow_task_goto(&r->task, next);
	if (!cow_core_is_whole(alloc->core, r->task.loop)) {
		cow_task_fail(&r->task, -EIO);
		return COW_AGAIN;
	}
	uint64_t ahead = cow_min(cow_max(end / 8, EXTEND_MIN_BYTES), EXTEND_MAX_BYTES);
	uint64_t size =
		cow_round_up(end + ahead, cow_max(alloc->g->cluster_bytes, COW_FILE_ALIGN_BYTES));
	cow_io_prep(&r->io, COW_IO_RESIZE, alloc->file, size, 0, cow_reserve_io_done);
	r->task.pending++;
	r->task.step = &step_extended;
	cow_loop_submit(r->task.loop, &r->io);
	return cow_task_wait_io(&r->task);
}
