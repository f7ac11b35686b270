/* SPDX-License-Identifier: MIT */
#include "engine/request/read.h"

#include "engine/request/reader.h"

static enum cow_next read_map(struct cow_task *task)
{
	struct cow_op *op = cow_op_of(task);
	enum cow_next next = cow_reader_read(op, &op->reader);
	if (next == COW_AGAIN && !task->error)
		return COW_END;
	return next;
}

const struct cow_step cow_read_step = { "read", read_map };
