/* SPDX-License-Identifier: MIT */
/*
 * What the daemon asks of the kernel for itself. Failures are warnings: an attach without them
 * works, only less well.
 */
#ifndef COW_HARDEN_H
#define COW_HARDEN_H

#include <stdint.h>

#include "engine/base/result.h"

/*
 * It sits under the writeback path: memory is locked as it is touched, allocations never wait for
 * I/O, the OOM killer looks elsewhere. Before threads and rings exist, so that they inherit it.
 */
void cow_harden_memory(void);

/*
 * With the image and its chain open: keeps what adding and starting the device takes
 * (CAP_SYS_ADMIN for ublk's control commands, CAP_IPC_LOCK for the rings) and what sandbox.h takes,
 * nothing else, and no new privileges. Before threads exist: capabilities are a thread's.
 */
void cow_harden_drop_privileges(void);

/* Of the calling thread: keeps those of bits (1 << CAP_*), and no new privileges. 0 or -errno. */
COW_MUST_CHECK int cow_harden_keep_capabilities(uint64_t bits);

/*
 * The caller's descriptors but the standard streams: its locks would be held and its pipes not end
 * for as long as the device lives. Before anything is opened that is to stay open.
 */
void cow_harden_close_inherited(void);

/* So many files as a chain, its rings and its device may need, even where the shell allows few. */
void cow_harden_allow_files(void);

#endif
