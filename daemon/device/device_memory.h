/* SPDX-License-Identifier: MIT */
/*
 * A thread that takes memory for the image's caches when they would use more, and gives it back
 * when they have been idle. It may sleep for memory, which the threads that serve requests must
 * not: what is short of memory may be waiting for them.
 *
 * When the kernel begins to swap to the device it takes all memory that can ever be needed, and
 * keeps it: what makes memory free must not wait for memory.
 */
#ifndef COW_DEVICE_MEMORY_H
#define COW_DEVICE_MEMORY_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "daemon/device/sandbox.h"
#include "daemon/device/uqueue.h"
#include "engine/base/result.h"
#include "engine/life/image.h"

struct cow_memory {
	int fd;	      /* an eventfd */
	int swaps_fd; /* swaps.h */
	bool keeps;   /* the thread's: all of it is taken */
	/* while the thread runs */
	const char *disk; /* "ublkb0" */
	struct cow_image *image;
	struct cow_uqueue *queues;
	unsigned nr_queues;
	const struct cow_sandbox *sandbox;
	atomic_bool quit;
	sem_t confined; /* the thread has given up what it does not need */
	pthread_t thread;
};

/* Before the image is opened, with cow_memory_want() as its want_memory. 0 or -errno. */
COW_MUST_CHECK int cow_memory_init(struct cow_memory *memory);
void cow_memory_fini(struct cow_memory *memory);
void cow_memory_want(void *ctx);

/* memory->disk to nr_queues are set. */
COW_MUST_CHECK int cow_memory_start(struct cow_memory *memory, const struct cow_sandbox *sandbox);
void cow_memory_stop(struct cow_memory *memory);

#endif
