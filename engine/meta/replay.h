/* SPDX-License-Identifier: MIT */
/*
 * Writes what a process that died had changed in memory that outlives it (outlive.h), as its next
 * writeback pass would have: refcounts | refcount table | L2 | L1, a barrier before each. What it had
 * acknowledged is in the file then, and durable. May be cut off anywhere and done again.
 *
 * What was set aside, allocated or freed and on its way back is not known any more: leaks.
 */
#ifndef COW_REPLAY_H
#define COW_REPLAY_H

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/loop/loop.h"

struct cow_core;

/*
 * Control plane, blocking. Core's files are open and locked, all I/O of the process has ended. fd: of
 * the shared memory. *left: the process, or one before it, had the image open: there are leaks. 0; -ENOTRECOVERABLE:
 * the image was in doubt already; or the host's error.
 */
COW_MUST_CHECK int cow_replay(struct cow_core *core, struct cow_loop *loop, int fd, bool *left,
			      struct cow_error *err);

#endif
