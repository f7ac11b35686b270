/* SPDX-License-Identifier: MIT */
/*
 * The file systems that lie on a disk, through whatever lies between: partitions, device mapper,
 * md, as one of several devices of a btrfs, in a file that a loop device shows; mounted anywhere,
 * in any mount namespace. All is found by the kernel's device numbers and ids, never by a path.
 */
#ifndef COW_FS_H
#define COW_FS_H

#include <stdbool.h>
#include <stddef.h>

#include "daemon/holders/mounts.h"
#include "daemon/holders/stack.h"
#include "engine/base/result.h"

struct cow_fs_mount {
	unsigned ns; /* index of its namespace */
	int id, parent;
	char *root, *where;
};

struct cow_fs {
	dev_t dev; /* the file system's own number: one for all its mounts */
	int on;	   /* index in the stack */
	char type[32];
	struct cow_fs_mount *mounts; /* the caller's own namespace first */
	unsigned nr_mounts;
	int fd; /* of cow_fs_open(), or -1 */
};

struct cow_fs_list {
	struct cow_stack stack;
	struct cow_mntns_list namespaces;
	struct cow_fs *fs; /* what lies on a file system's file comes behind that one */
	unsigned nr;
};

/*
 * disk: "ublkb0". COW_MNTNS_ALL: in all mount namespaces, which are entered: see mounts.h. 0 or -errno (-ENODEV:
 * no such disk).
 */
COW_MUST_CHECK int cow_fs_find(struct cow_fs_list *list, const char *disk,
			       enum cow_mntns_scope scope);
void cow_fs_fini(struct cow_fs_list *list);

/*
 * fs->fd: a file or folder of that file system and of no other, wherever it can be reached. 0 or
 * -errno. The caller may be in another namespace afterwards.
 */
COW_MUST_CHECK int cow_fs_open(struct cow_fs_list *list, struct cow_fs *fs);

/*
 * Does it have nothing without the disk? Not a mirror's other half, nor the other devices of a btrfs
 * or a logical volume. False too where that cannot be told.
 */
bool cow_fs_lies_only_on_disk(const struct cow_fs_list *list, const struct cow_fs *fs);

/* "ext4 on /dev/mapper/secret (on /dev/ublkb0p1), mounted on /mnt in the mount namespace of process 7 (sh)" */
void cow_fs_describe(const struct cow_fs_list *list, const struct cow_fs *fs, char *text,
		     size_t len);

#endif
