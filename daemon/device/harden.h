/* SPDX-License-Identifier: MIT */
/*
 * What the daemon asks of the kernel for itself. Failures are warnings: an attach without them
 * works, only less well.
 */
#ifndef COW_HARDEN_H
#define COW_HARDEN_H

/*
 * It sits under the writeback path: memory is locked as it is touched, allocations never wait for
 * I/O, the OOM killer looks elsewhere. Before threads and rings exist, so that they inherit it.
 */
void cow_harden_memory(void);

/*
 * With the image and its chain open: keeps CAP_SYS_ADMIN (ublk's control commands ask for it),
 * CAP_IPC_LOCK (io_uring's and the engine's memory), nothing else, and no new privileges. Before
 * threads exist: capabilities are a thread's.
 */
void cow_harden_drop_privileges(void);

#endif
