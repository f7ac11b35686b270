/* SPDX-License-Identifier: MIT */
/*
 * One ublk queue: a thread, a loop, an engine queue, and a tag for each request that the kernel may
 * have outstanding.
 *
 * A tag is, at any time, one of: fetched (the kernel holds its command), busy (the engine works on
 * its request), dead
 * (the kernel aborted the command: the device stops). The queue is drained when all tags are dead.
 */
#ifndef COW_UQUEUE_H
#define COW_UQUEUE_H

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/device/sandbox.h"
#include "daemon/device/transfer.h"
#include "engine/life/image.h"
#include "engine/loop/loop.h"
#include "uapi/ublk.h"

struct cow_uqueue;

struct cow_tag {
	struct cow_completion completion; /* of the fetch command */
	struct cow_uqueue *queue;
	void *buf;
	uint16_t idx;
	uint32_t data_bytes; /* READ, WRITE: what a success answers; else 0 */
	bool is_read;
	/* the buffer's memory: see rest() */
	bool busy;	/* the engine has the request */
	bool grown;	/* more than what is always kept */
	bool used;	/* grown, and used so since the last tick */
	unsigned place; /* of its last command among the SQEs */
};

struct cow_uqueue_config {
	struct cow_image *image;
	const struct cow_transfer_ops *transfer;
	int char_fd;
	int event_fd; /* eventfd, written when the queue has drained */
	unsigned idx, depth;
	uint32_t buffer_bytes; /* of each tag */
	cpu_set_t cpus;	       /* the thread's affinity, if pinned */
	bool pinned;
	bool keep_memory;		   /* all of it, from the start on */
	const struct cow_sandbox *sandbox; /* what the thread gives up when it serves */
};

struct cow_uqueue {
	/* constant while the thread runs */
	struct cow_uqueue_config config;
	struct cow_loop *loop;
	const struct ub_io_desc *descs; /* shared with the kernel */
	size_t descs_bytes;
	char *buffers;
	struct cow_tag *tags;
	pthread_t thread;

	/* the queue thread's */
	struct cow_queue *engine;
	unsigned nr_alive; /* tags that are not dead */
	unsigned nr_busy;  /* requests that the engine has */
	bool quit, abandoned;
	struct cow_io tick; /* armed after a request: memory is given back some time later */
	bool ticking, rest_due;
	unsigned rested; /* tags that this tick has looked at */
	bool rest_left;	 /* some of them have more memory than is always kept */
	struct cow_msg quit_msg, abandon_msg;

	/* thread -> starter */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool reported; /* lock */
	int error;     /* lock: why it could not begin to serve */
	_Atomic bool drained;
};

/*
 * Allocates everything, starts the thread and waits until every tag's fetch command is with the
 * kernel. 0 or -errno; after a failure nothing is left.
 */
int cow_uqueue_start(struct cow_uqueue *queue, const struct cow_uqueue_config *config);

/*
 * Once. Begins no request any more: drained when the engine has none. What comes is left to the
 * kernel, which fails it when /dev/ublkcN is closed.
 */
void cow_uqueue_abandon(struct cow_uqueue *queue);

/*
 * Ends the thread. The device must be stopped, abandoned, or never started: then fetch commands are still with
 * the kernel until cow_uqueue_free().
 */
void cow_uqueue_stop(struct cow_uqueue *queue);

/*
 * When all queues of the device are stopped: their engine queues may have posted messages to each
 * other until then.
 */
void cow_uqueue_free(struct cow_uqueue *queue);

static inline bool cow_uqueue_drained(const struct cow_uqueue *queue)
{
	return queue->drained;
}

#endif
