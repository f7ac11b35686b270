/* SPDX-License-Identifier: MIT */
/*
 * Asynchronous I/O on host files, with an embedded completion. What a short transfer, an
 * interrupted one or a read past the end of the file means is decided here, for all bodies of the
 * loop.
 */
#ifndef COW_IO_H
#define COW_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "engine/host/file.h"

struct cow_guest;
struct cow_loop;

enum cow_io_kind {
	/*
	 * All of it; bytes beyond the end of the file come as zeros: an allocated cluster may reach
	 * there that nobody wrote. But -EIO if the file was longer when the read began, or was ever
	 * found cut before the read's end.
	 */
	COW_IO_READ,
	COW_IO_WRITE, /* all of it; extends a regular file */
	COW_IO_SYNC,  /* fdatasync: everything completed before submission is durable */
	/* [offset, offset+length) reads as zeros and gives its space back; size is kept */
	COW_IO_PUNCH,
	COW_IO_RESIZE, /* file size becomes `offset` bytes (ftruncate); -ENOTSUP on block devices */
	COW_IO_TIMER,  /* completes `offset` nanoseconds from now with result 0 */
};

#define COW_IO_MAX_VEC 4

/*
 * What a ring's user_data points to (loop_uring.h). fn runs on the ring's thread with the CQE's res
 * and flags.
 */
struct cow_completion {
	void (*fn)(struct cow_completion *completion, int res, unsigned flags);
};

/* An I/O with its completion, embedded in whatever waits for it. */
struct cow_io {
	/* submitter's, not to be touched until done */
	enum cow_io_kind kind;
	struct cow_file *file;
	uint64_t offset; /* bytes (TIMER: nanoseconds from now, RESIZE: new size) */
	uint64_t length; /* bytes; READ/WRITE: sum of the vector */
	unsigned nr_vec; /* READ/WRITE */
	struct iovec vec[COW_IO_MAX_VEC]; /* consumed by the loop when it resumes short I/O */
	/* READ/WRITE of one buffer: its bytes are those of the guest's pages (guest.h); else NULL */
	const struct cow_guest *guest;
	/* an error is the submitter's to report: the log gets no line */
	bool quiet;
	/* runs on the submitting loop's thread, never from inside submit */
	void (*done)(struct cow_io *io);
	/*
	 * 0 or -errno, valid in done. Never short: the loop resubmits short I/O, EINTR and, for half a minute, EAGAIN.
	 */
	int result;

	/* loop's */
	struct cow_loop *loop;
	struct cow_io *next;
	uint64_t progress_bytes;
	unsigned nr_again; /* EAGAIN since the last progress */
	bool pausing;	   /* it is a timer now, instead of this: */
	enum cow_io_kind paused_kind;
	uint64_t paused_offset, paused_progress;
	uint64_t known_bytes;		  /* the file's size_bytes when the I/O began */
	struct cow_completion completion; /* loop_uring.c */
	int64_t timespec[2]; /* loop_uring.c: TIMER as the kernel's seconds, nanoseconds */
};

static inline void cow_io_prep(struct cow_io *io, enum cow_io_kind kind, struct cow_file *file,
			       uint64_t offset, uint64_t length, void (*done)(struct cow_io *))
{
	io->kind = kind;
	io->file = file;
	io->offset = offset;
	io->length = length;
	io->nr_vec = 0;
	io->guest = NULL;
	io->quiet = false;
	io->done = done;
	io->result = 0;
}

/* READ or WRITE with one buffer. */
static inline void cow_io_prep_rw(struct cow_io *io, enum cow_io_kind kind, struct cow_file *file,
				  uint64_t offset, void *buf, uint64_t length,
				  void (*done)(struct cow_io *))
{
	cow_io_prep(io, kind, file, offset, length, done);
	io->nr_vec = 1;
	io->vec[0].iov_base = buf;
	io->vec[0].iov_len = length;
}

/*
 * Hands io to the loop. Never fails and never completes inside the call; may be queued inside the
 * loop until the end of the current round (one io_uring_enter for many).
 */
void cow_loop_submit(struct cow_loop *loop, struct cow_io *io);

/* ---- for bodies ---- */

/* Handles short transfers, EINTR/EAGAIN and reads past the end; then calls io->done. */
void cow_io_raw_done(struct cow_io *io, int64_t result);

#endif
