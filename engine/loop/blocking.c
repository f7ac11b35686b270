/* SPDX-License-Identifier: MIT */
/* See blocking.h: one I/O at a time, through an aligned buffer where direct I/O needs it. */
#include "engine/loop/blocking.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/buf.h"

struct wait_io {
	struct cow_io io;
	bool done;
};

static void wait_io_done(struct cow_io *io)
{
	((struct wait_io *)io)->done = true;
}

static int submit_and_wait(struct cow_loop *loop, struct wait_io *w)
{
	w->done = false;
	w->io.quiet = true;
	cow_loop_submit(loop, &w->io);
	int ret = cow_loop_run_until(loop, &w->done);
	/* A broken ring would leave the kernel with a pointer into our stack. */
	cow_assert(ret == 0);
	return w->io.result;
}

#define BOUNCE_BYTES (256u << 10)

static bool needs_bounce(const struct cow_file *file, uint64_t offset, const void *buf,
			 uint64_t length)
{
	return file->direct && ((offset | length | (uintptr_t)buf) & 511);
}

static int rw_once(struct cow_loop *loop, enum cow_io_kind kind, struct cow_file *file,
		   uint64_t offset, void *buf, uint64_t length)
{
	struct wait_io w;
	cow_io_prep_rw(&w.io, kind, file, offset, buf, length, wait_io_done);
	return submit_and_wait(loop, &w);
}

/*
 * Sector-aligned window around one unaligned piece: read it, and for a write patch it and write it
 * back.
 */
static int rw_bounced(struct cow_loop *loop, enum cow_io_kind kind, struct cow_file *file,
		      uint64_t offset, void *buf, uint64_t length)
{
	uint64_t window = (offset & 511) + length;
	char *bounce = cow_buf_alloc(window < BOUNCE_BYTES ? window : BOUNCE_BYTES);
	if (!bounce)
		return -ENOMEM;
	int ret = 0;
	while (length && !ret) {
		uint64_t start = offset & ~511ull, skip = offset - start;
		uint64_t n = BOUNCE_BYTES - skip < length ? BOUNCE_BYTES - skip : length;
		uint64_t span = (skip + n + 511) & ~511ull;
		ret = rw_once(loop, COW_IO_READ, file, start, bounce, span);
		if (!ret && kind == COW_IO_READ)
			memcpy(buf, bounce + skip, n);
		if (!ret && kind == COW_IO_WRITE) {
			memcpy(bounce + skip, buf, n);
			ret = rw_once(loop, COW_IO_WRITE, file, start, bounce, span);
		}
		buf = (char *)buf + n;
		offset += n;
		length -= n;
	}
	free(bounce);
	return ret;
}

static int rw(struct cow_loop *loop, enum cow_io_kind kind, struct cow_file *file, uint64_t offset,
	      void *buf, uint64_t length)
{
	if (!length)
		return 0;
	if (needs_bounce(file, offset, buf, length))
		return rw_bounced(loop, kind, file, offset, buf, length);
	return rw_once(loop, kind, file, offset, buf, length);
}

int cow_loop_read(struct cow_loop *loop, struct cow_file *file, uint64_t offset, void *buf,
		  uint64_t length)
{
	return rw(loop, COW_IO_READ, file, offset, buf, length);
}

int cow_loop_write(struct cow_loop *loop, struct cow_file *file, uint64_t offset, const void *buf,
		   uint64_t length)
{
	return rw(loop, COW_IO_WRITE, file, offset, (void *)(uintptr_t)buf, length);
}

static int simple(struct cow_loop *loop, enum cow_io_kind kind, struct cow_file *file,
		  uint64_t offset, uint64_t length)
{
	struct wait_io w;
	cow_io_prep(&w.io, kind, file, offset, length, wait_io_done);
	return submit_and_wait(loop, &w);
}

int cow_loop_sync(struct cow_loop *loop, struct cow_file *file)
{
	return simple(loop, COW_IO_SYNC, file, 0, 0);
}

int cow_loop_punch(struct cow_loop *loop, struct cow_file *file, uint64_t offset, uint64_t length)
{
	return length ? simple(loop, COW_IO_PUNCH, file, offset, length) : 0;
}

int cow_loop_resize(struct cow_loop *loop, struct cow_file *file, uint64_t size_bytes)
{
	return simple(loop, COW_IO_RESIZE, file, size_bytes, 0);
}
