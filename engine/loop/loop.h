/* SPDX-License-Identifier: MIT */
/*
 * The engine's only way to the outside: host files, asynchronous I/O on embedded completions,
 * messages between threads, time. Three bodies: io_uring (loop_uring.c; daemon, bench), plain
 * system calls (loop_sync.c; offline tools where io_uring is forbidden, valgrind) and the simulator
 * (tests/sim).
 *
 * Threads: a loop belongs to one thread (its owner). Everything here is called by the owner, except
 * cow_loop_post().
 *
 * Order within cow_loop_run(): completions are drained first (their done functions run), then
 * deferred messages.
 */
#ifndef COW_LOOP_H
#define COW_LOOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "engine/base/error.h"

struct cow_loop;
struct cow_io;

/* ---- host files ---- */

enum cow_open_flags {
	COW_OPEN_WRITE = 1 << 0, /* read-write, else read-only */
	/* create, fail with -EEXIST if it exists (regular files); implies WRITE */
	COW_OPEN_CREATE = 1 << 1,
	/* with CREATE: an existing file is taken and truncated instead */
	COW_OPEN_TRUNCATE = 1 << 2,
	COW_OPEN_BUFFERED = 1 << 3, /* do not try O_DIRECT */
	COW_OPEN_NO_LOCK = 1 << 4,  /* take no image locks (info, check on an image in use) */
};

/*
 * Embedded first in a body's own file object. Fields are constant after open except the atomic
 * ones.
 */
struct cow_file {
	struct cow_host *host;
	char *path;	   /* as opened, owned */
	uint64_t dev, ino; /* identity, for loop detection */
	/*
	 * How long the file is as far as we know: at open, and by what we wrote and resized since.
	 * Nobody else may make it shorter.
	 */
	atomic_uint_least64_t size_bytes;
	/*
	 * 0: so it is. Else somebody has cut it, at the latest here: what was behind is lost, and zeros before may be what was lost.
	 */
	atomic_uint_least64_t lost_from;
	bool writable;
	bool direct;	   /* O_DIRECT: offsets, lengths and memory must be multiples of 512 */
	bool block_device; /* fixed size, no resize */
	/* whoever writes to it may make it longer and shorter: its length says nothing */
	bool unlocked;
	/* COW_IO_PUNCH works (probed or assumed; the engine copes with -EOPNOTSUPP) */
	bool can_punch;
	atomic_bool complained; /* the log has the first error of a request's I/O */
};

/* The name space of files. Blocking. */
struct cow_host_ops {
	/*
	 * Opens a regular file or block device, locks it QEMU-compatibly (FORMAT.md 4, Locks)
	 * unless NO_LOCK.
	 * -EBUSY with a text naming the holder where that can be found out.
	 */
	int (*open)(struct cow_host *host, const char *path, unsigned flags, struct cow_file **out,
		    struct cow_error *err);
	void (*close)(struct cow_file *file);
	/* Absolute path with symbolic links resolved, malloc'ed into *out. 0 or -errno. */
	int (*realpath)(struct cow_host *host, const char *path, char **out);
	/*
	 * May be NULL. A direct file that was synced just now: let the page cache forget it. What
	 * others left there (who wrote the image before us) collides with direct writes: Linux then
	 * takes the way through the cache for some of them, and fails the next fdatasync.
	 */
	void (*drop_cache)(struct cow_file *file);
	/*
	 * May be NULL. The file's length as the kernel has it at hand: does not block. False: not
	 * known.
	 */
	bool (*length)(struct cow_file *file, uint64_t *bytes);
	/*
	 * May be NULL. What path leads to, as in struct cow_file, without opening it. 0 or -errno.
	 */
	int (*identify)(struct cow_host *host, const char *path, uint64_t *dev, uint64_t *ino);
};

struct cow_host {
	const struct cow_host_ops *ops;
};

/* The real host: system calls. Static, never freed. */
struct cow_host *cow_host_system(void);

/* ---- has somebody cut the file? file.c; any thread ---- */

static inline bool cow_file_is_cut(const struct cow_file *file)
{
	return atomic_load_explicit(&file->lost_from, memory_order_relaxed) != 0;
}

/* We made it at least this long. */
void cow_file_grown(struct cow_file *file, uint64_t bytes);
/* It ends at `bytes`, and did not before. The log says so, once. */
void cow_file_note_cut(struct cow_file *file, uint64_t bytes);
/* Asks the host. False: it is cut, now or since earlier. Nothing may be shrinking it meanwhile. */
bool cow_file_is_whole(struct cow_file *file);

/* ---- asynchronous I/O ---- */

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
	/* runs on the submitting loop's thread, never from inside submit */
	void (*done)(struct cow_io *io);
	/*
	 * 0 or -errno, valid in done. Never short: the loop resubmits short I/O, EINTR and EAGAIN.
	 */
	int result;

	/* loop's */
	struct cow_loop *loop;
	struct cow_io *next;
	uint64_t progress_bytes;
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

/* ---- messages ---- */

/* Embedded; owned by the loop from post/defer until fn is called. */
struct cow_msg {
	struct cow_msg *next;
	void (*fn)(struct cow_msg *msg);
};

/*
 * Run msg->fn on target's thread, soon. Any thread may call; wakes the target. From the owner it is
 * a defer.
 */
void cow_loop_post(struct cow_loop *target, struct cow_msg *msg);

/* Nanoseconds, monotonic (simulated in the simulator). */
uint64_t cow_loop_now(struct cow_loop *loop);

/* ---- running ---- */

/*
 * One round: submit what is queued, wait for at least one event if `wait` and nothing is ready,
 * drain completions, run deferred messages until none is left. Returns 0 or -errno (the ring itself
 * broke).
 */
int cow_loop_run(struct cow_loop *loop, bool wait);

/* Rounds until *flag is true. For the blocking control plane. */
int cow_loop_run_until(struct cow_loop *loop, const bool *flag);

/* ---- blocking I/O for the control plane (open, create, check, snapshot) ---- */

/* 0 or -errno. buf should come from cow_buf_alloc() when the file is direct; else it is bounced. */
int cow_loop_read(struct cow_loop *loop, struct cow_file *file, uint64_t offset, void *buf,
		  uint64_t length);
int cow_loop_write(struct cow_loop *loop, struct cow_file *file, uint64_t offset, const void *buf,
		   uint64_t length);
int cow_loop_sync(struct cow_loop *loop, struct cow_file *file);
int cow_loop_punch(struct cow_loop *loop, struct cow_file *file, uint64_t offset, uint64_t length);
int cow_loop_resize(struct cow_loop *loop, struct cow_file *file, uint64_t size_bytes);

/* Page-aligned zeroed memory for I/O; NULL when out of memory. free() it. */
void *cow_buf_alloc(size_t bytes);

/* ---- for bodies ---- */

struct cow_loop_ops {
	/*
	 * Start io once, from progress_bytes on (vec already points there). Later, from drain(),
	 * the body calls cow_io_raw_done() with what the host said: bytes or -errno.
	 */
	void (*start)(struct cow_loop *loop, struct cow_io *io);
	/*
	 * Submit what is queued; if `wait`, block until a completion or a wake() arrives; drain
	 * completions.
	 */
	int (*drain)(struct cow_loop *loop, bool wait);
	/* From any thread: make a blocked or future drain(wait) return. */
	void (*wake)(struct cow_loop *loop);
	uint64_t (*now)(struct cow_loop *loop);
	void (*free)(struct cow_loop *loop);
};

/* Embedded first in a body's own loop object. */
struct cow_loop {
	const struct cow_loop_ops *ops;
	/* owner's: messages to run after the drain */
	struct cow_msg *ready_head, **ready_tail;
	/* any thread: lock-free stack of posted messages */
	_Atomic(struct cow_msg *) inbox;
};

void cow_loop_init(struct cow_loop *loop, const struct cow_loop_ops *ops);
/* Handles short transfers, EINTR/EAGAIN and reads past the end; then calls io->done. */
void cow_io_raw_done(struct cow_io *io, int64_t result);

/* The bodies' constructors. depth: the number of I/Os expected at once (a hint, not a limit). */
int cow_loop_sync_new(struct cow_loop **out);
int cow_loop_uring_new(unsigned depth, struct cow_loop **out);
void cow_loop_free(struct cow_loop *loop);

/*
 * Bind the loop to the calling thread: messages posted by it to its own loop are deferred without a
 * wake. NULL unbinds.
 */
void cow_loop_enter(struct cow_loop *loop);

#endif
