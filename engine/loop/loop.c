/* SPDX-License-Identifier: MIT */
/*
 * What all loop bodies share: messages, short transfers, the blocking calls of the control plane.
 *
 * The inbox is a stack that any thread pushes to and the owner takes whole; it is reversed so that
 * messages of one sender keep their order. A sender that finds the inbox non-empty need not wake:
 * whoever made it non-empty did.
 */
#include "engine/loop/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/log.h"

static _Thread_local struct cow_loop *current_loop;

void cow_loop_enter(struct cow_loop *loop)
{
	current_loop = loop;
}

void cow_loop_init(struct cow_loop *loop, const struct cow_loop_ops *ops)
{
	loop->ops = ops;
	loop->ready_head = NULL;
	loop->ready_tail = &loop->ready_head;
	atomic_init(&loop->inbox, NULL);
}

void cow_loop_free(struct cow_loop *loop)
{
	if (!loop)
		return;
	if (current_loop == loop)
		current_loop = NULL;
	loop->ops->free(loop);
}

uint64_t cow_loop_now(struct cow_loop *loop)
{
	return loop->ops->now(loop);
}

/* ---- messages ---- */

static void defer(struct cow_loop *loop, struct cow_msg *msg)
{
	msg->next = NULL;
	*loop->ready_tail = msg;
	loop->ready_tail = &msg->next;
}

void cow_loop_post(struct cow_loop *target, struct cow_msg *msg)
{
	if (target == current_loop) {
		defer(target, msg);
		return;
	}
	struct cow_msg *head = atomic_load_explicit(&target->inbox, memory_order_relaxed);
	do {
		msg->next = head;
	} while (!atomic_compare_exchange_weak_explicit(
		&target->inbox, &head, msg, memory_order_release, memory_order_relaxed));
	if (!head)
		target->ops->wake(target);
}

static void take_inbox(struct cow_loop *loop)
{
	struct cow_msg *msg = atomic_exchange_explicit(&loop->inbox, NULL, memory_order_acquire);
	struct cow_msg *fifo = NULL;
	while (msg) {
		struct cow_msg *next = msg->next;
		msg->next = fifo;
		fifo = msg;
		msg = next;
	}
	while (fifo) {
		struct cow_msg *next = fifo->next;
		defer(loop, fifo);
		fifo = next;
	}
}

static void run_ready(struct cow_loop *loop)
{
	while (loop->ready_head) {
		struct cow_msg *msg = loop->ready_head;
		loop->ready_head = msg->next;
		if (!loop->ready_head)
			loop->ready_tail = &loop->ready_head;
		msg->fn(msg);
	}
}

int cow_loop_run(struct cow_loop *loop, bool wait)
{
	struct cow_loop *outer = current_loop;
	current_loop = loop;
	take_inbox(loop);
	int ret = loop->ops->drain(loop, wait && !loop->ready_head);
	take_inbox(loop);
	run_ready(loop);
	current_loop = outer;
	return ret;
}

int cow_loop_run_until(struct cow_loop *loop, const bool *flag)
{
	while (!*flag) {
		int ret = cow_loop_run(loop, true);
		if (ret)
			return ret;
	}
	return 0;
}

/* ---- I/O ---- */

void cow_loop_submit(struct cow_loop *loop, struct cow_io *io)
{
	cow_assert(io->nr_vec <= COW_IO_MAX_VEC);
	io->loop = loop;
	io->progress_bytes = 0;
	io->known_bytes = io->file ? atomic_load(&io->file->size_bytes) : 0;
	/* Shorter from now on, longer once it is done: it never is shorter than we think. */
	if (io->kind == COW_IO_RESIZE && io->offset < io->known_bytes)
		atomic_store(&io->file->size_bytes, io->offset);
	loop->ops->start(loop, io);
}

static void advance_vec(struct cow_io *io, uint64_t bytes)
{
	unsigned i = 0;
	while (i < io->nr_vec && bytes >= io->vec[i].iov_len)
		bytes -= io->vec[i++].iov_len;
	memmove(io->vec, io->vec + i, (io->nr_vec - i) * sizeof(io->vec[0]));
	io->nr_vec -= i;
	if (bytes) {
		io->vec[0].iov_base = (char *)io->vec[0].iov_base + bytes;
		io->vec[0].iov_len -= bytes;
	}
}

static void zero_vec(struct cow_io *io)
{
	for (unsigned i = 0; i < io->nr_vec; i++)
		memset(io->vec[i].iov_base, 0, io->vec[i].iov_len);
}

static void wait_io_done(struct cow_io *io);

/*
 * Once per file: a guest repeats what fails. Blocking calls give their error to a caller who
 * reports it.
 */
static void complain(struct cow_io *io, const char *why)
{
	static const char *const what[] = {
		[COW_IO_READ] = "read", [COW_IO_WRITE] = "write", [COW_IO_SYNC] = "flush"
	};
	if (io->kind > COW_IO_SYNC || io->done == wait_io_done ||
	    atomic_exchange(&io->file->complained, true))
		return;
	cow_log(COW_LOG_ERR, "%s: cannot %s at offset %llu: %s",
		io->file->path ? io->file->path : "?", what[io->kind],
		(unsigned long long)io->offset, why);
}

/* What the I/O says about the file's length. */
static void note_length(struct cow_io *io, int result)
{
	if (io->kind == COW_IO_WRITE && !result && !io->file->block_device)
		cow_file_grown(io->file, io->offset + io->length);
	else if (io->kind == COW_IO_RESIZE)
		cow_file_grown(io->file, result ? io->known_bytes : io->offset);
}

/* The sector at `at`, or what is left of it, is all zeros. */
static bool zero_sector(const struct iovec *vec, size_t at)
{
	static const uint8_t zeros[512];
	size_t left = vec->iov_len - at;
	return !memcmp((const char *)vec->iov_base + at, zeros,
		       left < sizeof(zeros) ? left : sizeof(zeros));
}

static bool has_zero_sector(const struct cow_io *io)
{
	for (unsigned i = 0; i < io->nr_vec; i++)
		for (size_t at = 0; at < io->vec[i].iov_len; at += 512)
			if (zero_sector(&io->vec[i], at))
				return true;
	return false;
}

/* Zeros at either end: there may be a hole now where data was. */
static bool may_be_hole(const struct cow_io *io)
{
	const struct iovec *last = &io->vec[io->nr_vec ? io->nr_vec - 1 : 0];
	return io->nr_vec && io->vec[0].iov_len && last->iov_len &&
	       (zero_sector(&io->vec[0], 0) ||
		zero_sector(last, (last->iov_len - 1) & ~(size_t)511));
}

/*
 * A file that was cut may be long again by a write of ours, and nobody knows any more where it was
 * cut: what was there comes as zeros. So zeros are believed of a file that is whole, and of one
 * that was cut only what is none.
 */
static bool reads_lost(const struct cow_io *io)
{
	if (!cow_file_is_cut(io->file) && (!may_be_hole(io) || cow_file_is_whole(io->file)))
		return false;
	return io->offset + io->length > atomic_load(&io->file->lost_from) || has_zero_sector(io);
}

static void finish(struct cow_io *io, int result)
{
	if (result < 0)
		complain(io, strerror(-result));
	note_length(io, result);
	if (!result && io->kind == COW_IO_READ && reads_lost(io))
		result = -EIO;
	io->result = result;
	io->done(io);
}

/*
 * Beyond `end` was nothing to read: zeros, if it never was written. What we knew to be there is
 * lost, and that is no zeros.
 */
static void finish_short_read(struct cow_io *io, uint64_t end)
{
	bool lost = end < io->known_bytes;
	zero_vec(io);
	if (lost && io->file->unlocked)
		complain(io, "it is behind the end of the file");
	else if (lost)
		cow_file_note_cut(io->file, end);
	io->result = lost || cow_file_is_cut(io->file) ? -EIO : 0;
	io->done(io);
}

void cow_io_raw_done(struct cow_io *io, int64_t result)
{
	if (result == -EINTR || result == -EAGAIN) {
		io->loop->ops->start(io->loop, io);
		return;
	}
	if (result < 0 || (io->kind != COW_IO_READ && io->kind != COW_IO_WRITE)) {
		finish(io, result < 0 ? (int)result : 0);
		return;
	}
	uint64_t left = io->length - io->progress_bytes;
	cow_assert((uint64_t)result <= left);
	if ((uint64_t)result == left) {
		finish(io, 0);
		return;
	}
	if (result == 0) { /* the end of the file */
		if (io->kind == COW_IO_READ)
			finish_short_read(io, io->offset + io->progress_bytes);
		else
			finish(io, -ENOSPC);
		return;
	}
	/*
	 * A direct transfer can only go on at a 512-byte boundary. A short read that stops inside a
	 * sector met the end of the file; read that sector again from its start: it ends short
	 * again, with nothing but the tail, then comes 0.
	 */
	uint64_t step = (uint64_t)result;
	if (io->file->direct && (step & 511)) {
		if (io->kind == COW_IO_READ && step < 512) {
			advance_vec(io, step);
			finish_short_read(io, io->offset + io->progress_bytes + step);
			return;
		}
		step &= ~511ull;
		if (!step) {
			finish(io, -EIO);
			return;
		}
	}
	advance_vec(io, step);
	io->progress_bytes += step;
	io->loop->ops->start(io->loop, io);
}

/* ---- blocking calls ---- */

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
	cow_loop_submit(loop, &w->io);
	int ret = cow_loop_run_until(loop, &w->done);
	/* A broken ring would leave the kernel with a pointer into our stack. */
	cow_assert(ret == 0);
	return w->io.result;
}

void *cow_buf_alloc(size_t bytes)
{
	void *p = NULL;
	size_t rounded = (bytes + 4095) & ~(size_t)4095;
	if (rounded < bytes || posix_memalign(&p, 4096, rounded ? rounded : 4096))
		return NULL;
	memset(p, 0, rounded ? rounded : 4096);
	return p;
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
	char *bounce = cow_buf_alloc(BOUNCE_BYTES);
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
