/* SPDX-License-Identifier: MIT */
/*
 * A process for what may never return (a file system whose device is stuck) and for what changes
 * the process (entering namespaces). It is in a session of its own, keeps nothing open but its end
 * of a socket of messages, and takes no signal but SIGKILL: it sees by the socket's end that its
 * maker is gone.
 */
#ifndef COW_CHILD_H
#define COW_CHILD_H

#include <stddef.h>
#include <sys/types.h>

#include "engine/base/result.h"

struct cow_child {
	pid_t pid;
	int fd; /* our end: a line is a message */
};

#define COW_CHILD_TEXT_BYTES 1024

/*
 * Starts run(fd, ctx) in a process; the caller has one thread. 0 or -errno.
 */
COW_MUST_CHECK int cow_child_start(struct cow_child *child, const char *name,
				   void (*run)(int fd, void *ctx), void *ctx);

/* One message; pass_fd: a descriptor that goes with it, or -1. 0 or -errno. */
COW_MUST_CHECK int cow_child_send(int fd, const char *text, int pass_fd);
/* The same; -ETIMEDOUT: the other side did not take it in that time. */
COW_MUST_CHECK int cow_child_send_within(int fd, const char *text, int pass_fd, int timeout_ms);
/*
 * text: COW_CHILD_TEXT_BYTES. *passed_fd: the descriptor that came along, or -1; NULL: none is
 * wanted. timeout_ms -1: none. 0, -ETIMEDOUT, -ENODATA: the other side is gone.
 */
COW_MUST_CHECK int cow_child_receive(int fd, int timeout_ms, char *text, int *passed_fd);

/* Closes our end; the process goes when it can. */
void cow_child_leave(struct cow_child *child);

#endif
