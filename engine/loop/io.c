/* SPDX-License-Identifier: MIT */
/* See io.h: submission, short transfers, what a read lost. */
#include "engine/loop/io.h"

#include <errno.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/log.h"
#include "engine/loop/guest.h"
#include "engine/loop/loop.h"

void cow_loop_submit(struct cow_loop *loop, struct cow_io *io)
{
	cow_assert(io->nr_vec <= COW_IO_MAX_VEC);
	io->loop = loop;
	io->progress_bytes = 0;
	io->nr_again = 0;
	io->pausing = false;
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

static int zero_vec(struct cow_io *io)
{
	for (unsigned i = 0; i < io->nr_vec; i++)
		memset(io->vec[i].iov_base, 0, io->vec[i].iov_len);
	if (!io->guest || !io->nr_vec)
		return 0;
	return io->guest->store(io->guest,
				(uint64_t)((uint8_t *)io->vec[0].iov_base - io->guest->base),
				io->vec[0].iov_len);
}

/* Once per file: a guest repeats what fails. */
static void complain(struct cow_io *io, const char *why)
{
	static const char *const what[] = {
		[COW_IO_READ] = "read", [COW_IO_WRITE] = "write", [COW_IO_SYNC] = "flush"
	};
	if (io->kind > COW_IO_SYNC || io->quiet || atomic_exchange(&io->file->complained, true))
		return;
	cow_log(COW_LOG_ERR, "%s: cannot %s at offset %llu: %s",
		io->file->path ? io->file->path : "?", what[io->kind],
		(unsigned long long)io->offset, why);
}

/*
 * Counted, however often the guest tries. That a host makes no holes, or a block device has one
 * length, is no error: the engine does without. But space does not come back then, and the guest's
 * fstrim says that it did: one line.
 */
static void note_error(struct cow_io *io, int error)
{
	static const enum cow_health_kind kinds[] = {
		[COW_IO_READ] = COW_HEALTH_READ,    [COW_IO_WRITE] = COW_HEALTH_WRITE,
		[COW_IO_SYNC] = COW_HEALTH_FLUSH,   [COW_IO_PUNCH] = COW_HEALTH_DISCARD,
		[COW_IO_RESIZE] = COW_HEALTH_WRITE,
	};
	struct cow_file *file = io->file;
	if (io->kind == COW_IO_TIMER || (io->kind == COW_IO_RESIZE && error == ENOTSUP))
		return;
	if (io->kind != COW_IO_PUNCH || error != EOPNOTSUPP)
		cow_health_note(&file->health, kinds[io->kind], io->offset + io->progress_bytes,
				error);
	else if (!atomic_exchange(&file->health.cannot_punch, true))
		cow_log(COW_LOG_WARNING,
			"%s: discards give no space back: the host cannot punch holes into this "
			"file",
			file->path ? file->path : "?");
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

/* Asks once for all that ended together: if the file is whole now, it was when they ended. */
static bool is_whole(const struct cow_io *io)
{
	struct cow_loop *loop = io->loop;
	if (loop->in_batch && loop->whole == io->file)
		return !cow_file_is_cut(io->file);
	bool whole = cow_file_is_whole(io->file);
	loop->whole = whole ? io->file : NULL;
	return whole;
}

/*
 * A file that was cut may be long again by a write of ours, and nobody knows any more where it was
 * cut: what was there comes as zeros. So zeros are believed of a file that is whole, and of one
 * that was cut only what is none. The guest's pages are not looked at: there the host is always
 * asked, and nothing is believed of a file that was cut.
 */
static bool reads_lost(const struct cow_io *io)
{
	if (io->guest)
		return !is_whole(io);
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
	if (result < 0)
		note_error(io, -result);
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
	int ret = zero_vec(io);
	if (lost && io->file->unlocked)
		complain(io, "it is behind the end of the file");
	else if (lost)
		cow_file_note_cut(io->file, end);
	io->result = ret || lost || cow_file_is_cut(io->file) ? -EIO : 0;
	if (io->result)
		note_error(io, EIO);
	io->done(io);
}

/* ---- EAGAIN: the host lacks something just now ---- */

#define PAUSE_MIN_NS 1000000ull
#define PAUSE_MAX_NS 1000000000ull
#define MAX_PAUSES 40u /* half a minute in all */

/* At once first; then after a pause, in which the I/O is a timer; at last it has failed. */
static void try_again(struct cow_io *io)
{
	if (io->nr_again++ > MAX_PAUSES) {
		complain(io, strerror(EAGAIN));
		finish(io, -EIO);
		return;
	}
	if (io->nr_again > 1) {
		uint64_t pause = PAUSE_MIN_NS << (io->nr_again < 12 ? io->nr_again - 2 : 10);
		io->pausing = true;
		io->paused_kind = io->kind;
		io->paused_offset = io->offset;
		io->paused_progress = io->progress_bytes; /* a body's timer may use it */
		io->kind = COW_IO_TIMER;
		io->offset = pause < PAUSE_MAX_NS ? pause : PAUSE_MAX_NS;
	}
	io->loop->ops->start(io->loop, io);
}

static void end_pause(struct cow_io *io)
{
	io->pausing = false;
	io->kind = io->paused_kind;
	io->offset = io->paused_offset;
	io->progress_bytes = io->paused_progress;
	io->loop->ops->start(io->loop, io);
}

void cow_io_raw_done(struct cow_io *io, int64_t result)
{
	if (io->pausing) {
		end_pause(io);
		return;
	}
	if (result == -EINTR) {
		io->loop->ops->start(io->loop, io);
		return;
	}
	/* A sync that failed is not tried again: the host may have dropped what it was to write. */
	if (result == -EAGAIN && io->kind != COW_IO_SYNC) {
		try_again(io);
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
	io->nr_again = 0;
	io->loop->ops->start(io->loop, io);
}
