/* SPDX-License-Identifier: MIT */
/*
 * The owner of a freeze, see fsfreeze.h: what runs in the process. Messages to its maker:
 *
 *   n TEXT   told to the user
 *   f TEXT   about to freeze, with the descriptor
 *   z TEXT   frozen
 *   d        that is done
 *   x        the time is over: thawed
 *   e TEXT   failed, the owner ends; E: there is nothing to freeze
 *
 * and to the owner: F freeze, T thaw.
 */
#ifndef COW_FSOWNER_H
#define COW_FSOWNER_H

#include <sys/types.h>

struct cow_fsowner {
	const char *disk;
	unsigned limit_ms; /* from the first freeze to the thaw */
	pid_t server;	   /* who answers the disk's requests; 0: nobody knows */
};

/*
 * ctx: a struct cow_fsowner. Where the server dies while file systems are being frozen, each XFS
 * that has nothing without the disk is shut down: it writes its metadata again and again, for ever,
 * and the kernel cannot take the disk away before it has the lock that the freeze holds.
 */
void cow_fsowner_run(int fd, void *ctx);

/* In place of an owner that was killed: thaws the descriptors that it is sent, up to a message without one. */
void cow_fsowner_thaw_run(int fd, void *ctx);

#endif
