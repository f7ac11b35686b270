/* SPDX-License-Identifier: MIT */
/*
 * The system calls that are left to a daemon whose device is live: I/O on what is open, memory,
 * threads, time, its clients' connections. None that opens, makes, names or connects anything, runs
 * a program, changes an identity or reaches another process.
 *
 * A call that is not on the list fails with EPERM and is left in the kernel's audit log (dmesg where
 * no auditd runs): "type=1326 ... syscall=N". The process goes on, since it sits under somebody's
 * file system: libraries live with a refusal, and a forgotten call in a rare path must cost an
 * operation, not the disk. For whoever has taken it over a refusal is as good a wall as a kill.
 */
#ifndef COW_SECCOMP_H
#define COW_SECCOMP_H

#include "engine/base/result.h"

/* For all threads of the process; needs no_new_privs. 0 or -errno. */
COW_MUST_CHECK int cow_seccomp_enter(void);

#endif
