/* SPDX-License-Identifier: MIT */
/*
 * A file of the real host: what cow_host_system() makes and the bodies over the kernel
 * (loop_uring.c, loop_plain.c) use.
 */
#ifndef COW_SYSTEM_H
#define COW_SYSTEM_H

#include "engine/host/file.h"

struct cow_host_file {
	struct cow_file base; /* first */
	int fd;
};

static inline int cow_host_fd(const struct cow_file *file)
{
	return ((const struct cow_host_file *)file)->fd;
}

/* The real host: system calls. Static, never freed. */
struct cow_host *cow_host_system(void);

#endif
