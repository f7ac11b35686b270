/* SPDX-License-Identifier: MIT */
/*
 * From a name to a descriptor, where others own the folders on the way and rename while we look.
 *
 * A name is resolved first, which is only a guess at where it leads. Then it is opened without
 * following any link, from a descriptor of a folder, and never above that: whatever was renamed in
 * between, what is opened lies below the folder, or nothing is opened. All checks are on the
 * descriptor.
 *
 * File systems mounted below the folder are entered: pools of images are mounted there, and who owns
 * a folder cannot mount without being root (or FUSE, which root does not see into).
 */
#ifndef COW_PATH_H
#define COW_PATH_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "engine/base/error.h"
#include "engine/base/result.h"

#define COW_PATH_ANY_OWNER ((uid_t)-1)

struct cow_path {
	char full[PATH_MAX]; /* absolute, without links, "." and ".." */
	/*
	 * A link of this user, neither root nor the caller, is on the way: what it leads to must be
	 * that user's. COW_PATH_ANY_OWNER: there is none.
	 */
	uid_t link_owner;
	bool missing; /* all is there but the last component */
	/*
	 * The name stood for a descriptor of the caller's: by then its file may have another name, or
	 * something else be mounted over it. What is opened must be this file.
	 */
	bool is_descriptor;
	uint64_t dev, ino; /* st_dev, st_ino; of a block device its number and UINT64_MAX */
};

/*
 * Where name leads now. Links in /proc are refused: they do not say where they lead. 0 or -errno with
 * a text.
 */
COW_MUST_CHECK int cow_path_resolve(const char *name, struct cow_path *path, struct cow_error *err);

/*
 * Opens name (relative, as cow_path_resolve() leaves it; "" is the folder) below the folder dir,
 * following no link. With O_PATH a link as the last component is opened itself. A descriptor
 * (close-on-exec), or -errno: -ELOOP for a link, -EXDEV for a way out.
 */
COW_MUST_CHECK int cow_path_open(int dir, const char *name, int flags, mode_t mode);

/* A descriptor of "/", O_PATH, or -errno. */
COW_MUST_CHECK int cow_path_open_slash(void);

/*
 * As cow_path_open(), of a file whose type is among types (COW_PATH_*): looked at before it is
 * opened, since opening a device may do things. -ESTALE: it was exchanged meanwhile; -EINVAL with a
 * text: another type. `shown` is the name for texts.
 */
enum cow_path_types { COW_PATH_FILE = 1 << 0, COW_PATH_BLOCK = 1 << 1, COW_PATH_FIFO = 1 << 2 };
COW_MUST_CHECK int cow_path_open_typed(int dir, const char *name, int flags, unsigned types,
				       const char *shown, struct stat *st, struct cow_error *err);

/*
 * What the path led to: -EPERM with a text unless it belongs to whom its links do, -ESTALE unless it
 * is the file of the descriptor that the path stood for.
 */
COW_MUST_CHECK int cow_path_check(const struct cow_path *path, const struct stat *st,
				  const char *shown, struct cow_error *err);

#endif
