/* SPDX-License-Identifier: MIT */
/*
 * Mounts, in every mount namespace. Reading another namespace's mounts as they are there, and
 * opening them, means to enter it: a process that does so must have one thread, and is not good
 * for much else afterwards (child.h makes one).
 */
#ifndef COW_MOUNTS_H
#define COW_MOUNTS_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "engine/base/result.h"

/* A line of mountinfo; the strings point into the line. */
struct cow_mount {
	int id, parent;
	dev_t dev; /* the file system's; btrfs and others have one of their own */
	const char *root, *where, *type, *source, *super;
};

struct cow_mntns {
	ino_t ino;
	int fd;	       /* to enter it; -1: the caller's own, or it may not be entered */
	pid_t pid;     /* a process in it; 0: the caller's own, or none */
	char comm[16]; /* that process' name */
};

struct cow_mntns_list {
	int proc_fd;	      /* /proc as the caller sees it */
	struct cow_mntns *ns; /* [0] is the caller's own */
	unsigned nr;
	bool blind; /* there may be others: not all processes may be looked at, or namespaces entered */
};

/* Of the caller alone, or every one that there is, as far as the caller may know. */
enum cow_mntns_scope { COW_MNTNS_OWN, COW_MNTNS_ALL };

/* 0 or -errno. */
COW_MUST_CHECK int cow_mntns_collect(struct cow_mntns_list *list, enum cow_mntns_scope scope);
void cow_mntns_fini(struct cow_mntns_list *list);
/* 0 or -errno. */
COW_MUST_CHECK int cow_mntns_enter(const struct cow_mntns_list *list, unsigned idx);

/*
 * Every mount of a namespace, which is entered if it can be. 0 or -errno; each's return value other
 * than 0 ends it and is returned.
 */
COW_MUST_CHECK int cow_mounts_each(const struct cow_mntns_list *list, unsigned idx,
				   int (*each)(void *ctx, unsigned idx,
					       const struct cow_mount *mount),
				   void *ctx);

/*
 * The root of a mount of the namespace that the caller is in, or -errno: -ESTALE when something
 * else is mounted over it. Never another mount's, never a device: a folder or a regular file.
 */
COW_MUST_CHECK int cow_mount_open(int proc_fd, const char *where, int id);
/*
 * The same for a mount that others are mounted over, in a private copy of the namespace: the
 * caller is in that copy afterwards.
 */
COW_MUST_CHECK int cow_mount_open_covered(int proc_fd, const struct cow_mount *wanted);

#endif
