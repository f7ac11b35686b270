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
 * and from him: F freeze, T thaw.
 */
#ifndef COW_FSOWNER_H
#define COW_FSOWNER_H

struct cow_fsowner {
	const char *disk;
	unsigned limit_ms; /* from the first freeze to the thaw */
};

/* ctx: a struct cow_fsowner. */
void cow_fsowner_run(int fd, void *ctx);

/* In place of an owner that was killed: thaws the descriptors that it is sent, up to a message without one. */
void cow_fsowner_thaw_run(int fd, void *ctx);

#endif
