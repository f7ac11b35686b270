/* SPDX-License-Identifier: MIT */
/*
 * What the daemon gives up when its device is live. It keeps the descriptors that it has open, and
 * nothing to get others with:
 *
 *   user          of its own, "cowblk", where /etc/passwd has one and the image's files do not mind
 *   capabilities  none: keeper.h does what the kernel asks some for
 *   root          an empty folder: no path leads anywhere, nor to anybody's socket
 *   landlock      nothing on any file system may be opened, made, removed or run; no TCP
 *   seccomp       only the system calls of seccomp.h
 *
 * Each stands behind the others. One that the kernel does not have is said and done without.
 * Builds with sanitizers keep all, since these open files when they find something.
 */
#ifndef COW_SANDBOX_H
#define COW_SANDBOX_H

#include <stdbool.h>
#include <sys/types.h>

#include "engine/base/result.h"

struct cow_sandbox {
	int ruleset_fd; /* landlock's, or -1 */
	bool has_user;
	uid_t uid;
	gid_t gid;
	char kept[320]; /* why there is none, "" where one could be taken */
	char text[128]; /* what was given up, after cow_sandbox_enter() */
};

/* As long as paths still lead somewhere, before other threads exist. */
void cow_sandbox_prepare(struct cow_sandbox *sandbox);

/* Of the calling thread. 0 or -errno. */
COW_MUST_CHECK int cow_sandbox_become_user(const struct cow_sandbox *sandbox);

/*
 * For every thread that exists by the time of cow_sandbox_enter(), and that needs no privilege any
 * more: user, capabilities and landlock are a thread's.
 */
void cow_sandbox_enter_thread(const struct cow_sandbox *sandbox);

/*
 * All of it, for good; threads made later inherit it. From the thread that prepared. run_dir: a
 * folder of ours on a file system in memory.
 */
void cow_sandbox_enter(struct cow_sandbox *sandbox, const char *run_dir);

#endif
