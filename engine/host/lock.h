/* SPDX-License-Identifier: MIT */
/*
 * Image locks that QEMU understands (its file-posix.c): byte ranges on the image file, owned by the
 * open file description, gone when it is closed.
 *
 *   byte 100 + bit   shared lock held: "I use this permission"
 *   byte 200 + bit   shared lock held: "I do not let others use this permission"
 *   bit              0 consistent read, 1 write, 2 write unchanged, 3 resize
 *
 * All locks are shared; a conflict is found by asking after having locked, so two that come at once
 * may both see one: each then gives up its locks and comes again after a short random while.
 */
#ifndef COW_LOCK_H
#define COW_LOCK_H

#include <stdbool.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/host/file.h"

enum cow_lock_perm {
	COW_LOCK_READ = 1 << 0,
	COW_LOCK_WRITE = 1 << 1,
	COW_LOCK_WRITE_UNCHANGED = 1 << 2,
	COW_LOCK_RESIZE = 1 << 3,
};

/*
 * Lock the open image fd as its writer or as one of its readers; nobody else may write or resize
 * it. -EBUSY with a text that names the holder where /proc tells; other errors when the file system
 * has no such locks. On failure close fd.
 */
enum cow_lock_role { COW_LOCK_READER, COW_LOCK_WRITER };

COW_MUST_CHECK int cow_lock_image(int fd, enum cow_lock_role role, const char *path,
				  struct cow_error *err);

/*
 * Locks a file that was opened with NO_LOCK, after what could be wrong with it was found out: as
 * open() does without that flag.
 */
COW_MUST_CHECK int cow_lock_file(struct cow_file *file, struct cow_error *err);

/* Give up all locks of this open file description. */
void cow_lock_release(int fd);

#endif
