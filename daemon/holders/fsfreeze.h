/* SPDX-License-Identifier: MIT */
/*
 * The file systems on a disk, written back and frozen around something. They have an owner that
 * always thaws, a process of its own (child.h): when it is told to, when its maker is gone, however
 * that died, and when the time is over. If the owner is killed, its maker thaws.
 *
 * prepare, freeze, thaw; or prepare, leave. Nothing here waits longer than it says.
 */
#ifndef COW_FSFREEZE_H
#define COW_FSFREEZE_H

#include "daemon/holders/child.h"
#include "engine/base/error.h"
#include "engine/base/result.h"

#define COW_FSFREEZE_MAX 256u

struct cow_fsfreeze {
	struct cow_child owner;
	unsigned limit_ms;
	/* What the owner has frozen, in that order: for the case that it is killed. */
	int fds[COW_FSFREEZE_MAX];
	unsigned nr;
	int trying; /* what it is about to freeze, or -1 */
	/* Told a line at a time: what was frozen, what could not be and why, what takes long. */
	void (*say)(const char *text);
};

/*
 * Finds and opens all file systems on disk ("ublkb0"), in all mount namespaces, and writes them back
 * while they run: so the freeze is short. sync_ms: the limit of that; limit_ms: from the first
 * freeze to the thaw; server: the disk's daemon, or 0. 0, -ENOENT (none is mounted), -ETIMEDOUT, or -errno, with a text; then there
 * is nothing to leave.
 */
COW_MUST_CHECK int cow_fsfreeze_prepare(struct cow_fsfreeze *f, const char *disk, unsigned sync_ms,
					unsigned limit_ms, pid_t server,
					void (*say)(const char *text), struct cow_error *err);

/* All of them frozen that can be; or none, -errno with a text, and nothing to leave. */
COW_MUST_CHECK int cow_fsfreeze_freeze(struct cow_fsfreeze *f, struct cow_error *err);

/* 0: all were frozen until now. Else a text: -ETIMEDOUT when they were not. Ends f. */
COW_MUST_CHECK int cow_fsfreeze_thaw(struct cow_fsfreeze *f, struct cow_error *err);

/* Ends f; what is frozen is thawed, sooner or later. */
void cow_fsfreeze_leave(struct cow_fsfreeze *f);

#endif
