/* SPDX-License-Identifier: MIT */
/*
 * A file of the real host: what cow_host_system() makes and the bodies over the kernel
 * (loop_uring.c, loop_plain.c) use.
 */
#ifndef COW_SYSTEM_H
#define COW_SYSTEM_H

#include "engine/base/result.h"
#include "engine/host/file.h"

struct cow_host_file {
	struct cow_file base; /* first */
	int fd;
	int dir_fd;	  /* of a file that was made here: the folder it was made in; else -1 */
	const char *name; /* in that folder; part of base.path */
	bool kept;	  /* the lock is not ours to release any more: cow_host_ops.keep */
};

static inline int cow_host_fd(const struct cow_file *file)
{
	return ((const struct cow_host_file *)file)->fd;
}

/* The real host: system calls. Static, never freed. */
struct cow_host *cow_host_system(void);

/*
 * A file of an open descriptor, which is the file's from then on, whatever comes of it. name: for
 * texts. flags: WRITE, BUFFERED, NO_LOCK.
 */
COW_MUST_CHECK int cow_system_adopt(int fd, const char *name, unsigned flags, struct cow_file **out,
				    struct cow_error *err);

/*
 * Of an adopted descriptor whose lock is another process's as well: closing the file does not release
 * it, until it is our own.
 */
void cow_system_share_lock(struct cow_file *file);
void cow_system_own_lock(struct cow_file *file);

/* Closes a file that was made by COW_OPEN_CREATE and takes its name away, if it still has it. */
void cow_system_remove(struct cow_file *file);

#endif
