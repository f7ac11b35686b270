/* SPDX-License-Identifier: MIT */
/*
 * A thread that takes memory for the image's caches when they would use more, and gives it back
 * when they have been idle. It may sleep for memory, which the threads that serve requests must
 * not: what is short of memory may be waiting for them.
 */
#ifndef COW_DEVICE_MEMORY_H
#define COW_DEVICE_MEMORY_H

#include <pthread.h>
#include <stdatomic.h>

#include "daemon/device/sandbox.h"
#include "engine/base/result.h"
#include "engine/life/image.h"

struct cow_memory {
	int fd; /* an eventfd */
	struct cow_image *image;
	const struct cow_sandbox *sandbox;
	atomic_bool quit;
	pthread_t thread;
};

/* Before the image is opened, with cow_memory_want() as its want_memory. 0 or -errno. */
COW_MUST_CHECK int cow_memory_init(struct cow_memory *memory);
void cow_memory_fini(struct cow_memory *memory);
void cow_memory_want(void *ctx);

COW_MUST_CHECK int cow_memory_start(struct cow_memory *memory, struct cow_image *image,
				    const struct cow_sandbox *sandbox);
void cow_memory_stop(struct cow_memory *memory);

#endif
