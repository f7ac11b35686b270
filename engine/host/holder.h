/* SPDX-License-Identifier: MIT */
/* Who holds a lock that is in the way: for what people are told, nothing else. */
#ifndef COW_HOLDER_H
#define COW_HOLDER_H

#include <fcntl.h>
#include <stdbool.h>

struct cow_holder {
	long pid;
	char name[32]; /* "" where that cannot be seen */
};

/*
 * fd: an open file; lock: what F_OFD_GETLK says of another's lock on it. False: its holder is no
 * process that can be seen from here.
 */
bool cow_holder_find(int fd, const struct flock *lock, struct cow_holder *holder);

#endif
