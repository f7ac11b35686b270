/* SPDX-License-Identifier: MIT */
/* FLUSH, and the tail of FUA writes: join a writeback pass. */
#include "engine/request/flush.h"

#include <errno.h>

#include "engine/request/op.h"

static enum cow_next flush_flushed(struct cow_task *task)
{
	return COW_END;
}

static const struct cow_step step_flushed = { "flush: flushed", flush_flushed };

static enum cow_next flush_join(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	struct cow_image *image = cow_op_image(op);
	if (!image->core.writable)
		return COW_END;
	if (cow_core_is_failed(&image->core)) {
		cow_task_fail(task, -EIO);
		return COW_AGAIN;
	}
	task->step = &step_flushed;
	cow_commit_join(&image->core.commit, task);
	return COW_WAIT;
}

const struct cow_step cow_flush_step = { "flush: join", flush_join };
