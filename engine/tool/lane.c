/* SPDX-License-Identifier: MIT */
/* See lane.h. In this order: what a host file holds; what an image's mapping says; content. */
#include "engine/tool/lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/image/source.h"
#include "engine/image/state.h"
#include "engine/loop/blocking.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "engine/tool/disk_state.h"

#define ZEROS_BYTES (256u << 10)

/* glibc compares as fast as memory is read; the buffer is compared with itself, a byte further on. */
bool cow_lane_is_zero(const void *buf, size_t bytes)
{
	const uint8_t *p = buf;
	return !bytes || (!p[0] && !memcmp(p, p + 1, bytes - 1));
}

int cow_lane_open(struct cow_lane *lane, struct cow_disk *disk, struct cow_loop *loop)
{
	*lane = (struct cow_lane){ .disk = disk, .loop = loop };
	return disk->image ? cow_queue_new(disk->image, loop, 1, &lane->queue) : 0;
}

void cow_lane_close(struct cow_lane *lane)
{
	cow_queue_free(lane->queue);
	*lane = (struct cow_lane){ 0 };
}

/* ---- what a host file holds ---- */

/* At most bytes, from off on. What the file system does not know is data. */
static void look_file(struct cow_file *file, uint64_t off, uint64_t bytes, struct cow_extent *e)
{
	const struct cow_host_ops *ops = file->host->ops;
	bool hole;
	uint64_t end;
	*e = (struct cow_extent){ .bytes = bytes,
				  .data = true,
				  .allocated = true,
				  .plain = true,
				  .raw = true,
				  .mapped = true,
				  .file = file,
				  .host_off = off };
	if (!ops->look || !ops->look(file, off, &hole, &end))
		return;
	e->data = !hole;
	e->zero = hole;
	end = cow_min(end, off + bytes);
	e->bytes = cow_min(bytes, cow_round_up(end, 512) - off);
}

/* A file system may tell of runs that are long in one call: they are asked for once. */
static void look_raw(struct cow_lane *lane, uint64_t off, uint64_t bytes, struct cow_extent *e)
{
	uint64_t end = lane->run_off + lane->run.bytes;
	if (off < lane->run_off || off >= end) {
		lane->run_off = off;
		look_file(lane->disk->file, off, cow_disk_bytes(lane->disk) - off, &lane->run);
		end = off + lane->run.bytes;
	}
	*e = lane->run;
	e->bytes = cow_min(bytes, end - off);
	e->host_off = off;
}

/* ---- what an image's mapping says ---- */

struct look {
	struct cow_task task;
	struct cow_image *image;
	uint64_t off, bytes;
	struct cow_source source;
	bool done;
};

static enum cow_next tool_look_failed(struct cow_task *task)
{
	return COW_END;
}

static enum cow_next tool_look(struct cow_task *task)
{
	struct look *look = (struct look *)task;
	bool found = cow_source_find(look->image, look->off, look->bytes, &look->source, task);
	return found ? COW_END : COW_WAIT;
}

static void look_end(struct cow_task *task)
{
	((struct look *)task)->done = true;
}

static const struct cow_step step_look_failed = { "tool: look failed", tool_look_failed };
static const struct cow_step step_look_find = { "tool: look", tool_look };

static void from_source(struct cow_lane *lane, uint64_t off, const struct cow_source *s,
			struct cow_extent *e)
{
	const struct cow_image *level = s->image;
	*e = (struct cow_extent){ .bytes = s->bytes, .allocated = level != NULL };
	e->zero = s->kind == COW_SOURCE_ZERO;
	e->data = !e->zero;
	e->plain = s->kind == COW_SOURCE_DATA && !level->key;
	e->packed = s->kind == COW_SOURCE_COMPRESSED;
	e->depth = s->last->depth;
	e->raw = s->last->raw;
	e->mapped = s->has_host && !s->last->key;
	if (e->plain || e->mapped) {
		e->file = s->last->core.data;
		e->host_off = s->host_off;
	}
	if (s->kind != COW_SOURCE_DATA || (!level->raw && !lane->disk->preallocated[level->depth]))
		return;
	struct cow_extent below;
	look_file(level->core.data, s->host_off, s->bytes, &below);
	e->bytes = below.bytes;
	if (below.zero && !level->key)
		e->zero = true;
	if (level->raw)
		e->data = below.data;
}

int cow_lane_extent(struct cow_lane *lane, uint64_t off, uint64_t bytes, struct cow_extent *e)
{
	if (!lane->queue) {
		look_raw(lane, off, bytes, e);
		return 0;
	}
	struct look look = { .image = lane->disk->image, .off = off, .bytes = bytes };
	look.source.bytes = cow_min(bytes, 512);
	cow_task_init(&look.task, &step_look_failed, look_end);
	cow_task_start(&look.task, lane->loop, &step_look_find);
	int ret = cow_loop_run_until(lane->loop, &look.done);
	if (!ret)
		ret = look.task.error;
	if (!ret)
		from_source(lane, off, &look.source, e);
	else
		*e = (struct cow_extent){ .bytes = look.source.bytes };
	return ret;
}

/* ---- content ---- */

int cow_lane_read(struct cow_lane *lane, uint64_t off, uint64_t bytes, void *buf)
{
	if (lane->queue)
		return cow_queue_do(lane->queue, COW_OP_READ, 0, off, bytes, buf);
	return cow_loop_read(lane->loop, lane->disk->file, off, buf, bytes);
}

int cow_lane_write(struct cow_lane *lane, uint64_t off, uint64_t bytes, const void *buf)
{
	if (lane->queue)
		return cow_queue_do(lane->queue, COW_OP_WRITE, 0, off, bytes,
				    (void *)(uintptr_t)buf);
	return cow_loop_write(lane->loop, lane->disk->file, off, buf, bytes);
}

static int write_zeros(struct cow_lane *lane, uint64_t off, uint64_t bytes)
{
	uint64_t unit = cow_min(bytes, ZEROS_BYTES);
	uint8_t *zeros = cow_buf_alloc(unit);
	int ret = zeros ? 0 : -ENOMEM;
	for (uint64_t done = 0; !ret && done < bytes; done += unit)
		ret = cow_loop_write(lane->loop, lane->disk->file, off + done, zeros,
				     cow_min(unit, bytes - done));
	free(zeros);
	return ret;
}

int cow_lane_zero(struct cow_lane *lane, uint64_t off, uint64_t bytes)
{
	if (lane->queue)
		return cow_queue_do(lane->queue, COW_OP_WRITE_ZEROES, 0, off, bytes, NULL);
	lane->run.bytes = 0;
	int ret = cow_loop_punch(lane->loop, lane->disk->file, off, bytes);
	return ret == -EOPNOTSUPP || ret == -ENODEV || ret == -EINVAL
		       ? write_zeros(lane, off, bytes)
		       : ret;
}
