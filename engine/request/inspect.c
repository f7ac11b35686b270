/* SPDX-License-Identifier: MIT */
/* See inspect.h: names, one request, all of them, text; in this order. */
#include "engine/request/inspect.h"

#include <inttypes.h>
#include <stdio.h>

#include "engine/request/op.h"
#include "engine/request/kind.h"

const char *cow_inspect_kind(enum cow_op_kind kind)
{
	static const char *const names[] = {
		[COW_OP_READ] = "read",
		[COW_OP_WRITE] = "write",
		[COW_OP_FLUSH] = "flush",
		[COW_OP_DISCARD] = "discard",
		[COW_OP_WRITE_ZEROES] = "write-zeroes",
	};
	return names[kind];
}

static const char *io_kind(enum cow_io_kind kind)
{
	static const char *const names[] = {
		[COW_IO_READ] = "read",	  [COW_IO_WRITE] = "write",   [COW_IO_SYNC] = "sync",
		[COW_IO_PUNCH] = "punch", [COW_IO_RESIZE] = "resize", [COW_IO_TIMER] = "timer",
	};
	return names[kind];
}

/* One that the loop repeats after a pause is shown as what it is, not as the pause. */
static void take_io(const struct cow_io *io, struct cow_inspected *out)
{
	out->io.kind = io->pausing ? io->paused_kind : io->kind;
	out->io.path = io->file ? io->file->path : NULL;
	out->io.offset = io->pausing ? io->paused_offset : io->offset;
	out->io.bytes = io->length;
}

bool cow_inspect(const struct cow_queue *queue, unsigned idx, struct cow_inspected *out)
{
	const struct cow_op *op = &queue->ops[idx];
	if (!op->active)
		return false;
	*out = (struct cow_inspected){
		.idx = op->idx,
		.kind = op->kind,
		.flags = op->flags,
		.off = op->off,
		.end = op->end,
		.cursor = op->cursor,
		.step = op->task.step ? op->task.step->name : "?",
		.waits_for = op->task.waits_for,
		.error = op->task.error,
		.nr_ios = op->task.pending,
	};
	for (unsigned i = 0; i < COW_OP_PIECES; i++)
		if (op->pieces[i].busy) {
			take_io(&op->pieces[i].io, out);
			break;
		}
	return true;
}

void cow_inspect_wait_text(const struct cow_inspected *request, char *text, size_t len)
{
	if (request->waits_for) {
		snprintf(text, len, "%s", request->waits_for);
		return;
	}
	if (!request->nr_ios) {
		snprintf(text, len, "its turn");
		return;
	}
	int at = snprintf(text, len, "%u host I/O%s", request->nr_ios,
			  request->nr_ios == 1 ? "" : "s");
	if (at > 0 && (size_t)at < len && request->io.path)
		snprintf(text + at, len - (size_t)at,
			 " (%s of %" PRIu64 " bytes at %" PRIu64 " of %s)",
			 io_kind(request->io.kind), request->io.bytes, request->io.offset,
			 request->io.path);
}

void cow_inspect_print(const struct cow_queue *queue, void (*line)(void *ctx, const char *text),
		       void *ctx)
{
	for (unsigned i = 0; i <= queue->nr_ops; i++) {
		struct cow_inspected r;
		char wait[256], text[512];
		if (!cow_inspect(queue, i, &r))
			continue;
		cow_inspect_wait_text(&r, wait, sizeof(wait));
		snprintf(text, sizeof(text),
			 "queue %u tag %u %s [%" PRIu64 ", %" PRIu64 ") at %" PRIu64
			 ": %s, waits for %s, error %d",
			 queue->idx, r.idx, cow_inspect_kind(r.kind), r.off, r.end, r.cursor,
			 r.step, wait, r.error);
		line(ctx, text);
	}
}
