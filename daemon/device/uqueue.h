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
#include "engine/base/mutex.h"
#include "engine/base/result.h"
#include "engine/life/image.h"
#include "engine/loop/guest.h"
#include "engine/loop/loop.h"
#include "engine/request/inspect.h"
#include "uapi/ublk.h"

struct cow_uqueue;

struct cow_tag {
	struct cow_completion completion; /* of the fetch command */
	struct cow_uqueue *queue;
	struct cow_guest guest; /* base: the tag's buffer */
	uint16_t idx;
	/* monotonic, when the engine got the request; 0: it has none. Written by the queue's thread. */
	_Atomic uint64_t begun_ns;
	uint32_t data_bytes; /* READ, WRITE: what a success answers; else 0 */
	bool is_read;
	bool registered; /* its pages are in the ring */
	/* the buffer's memory: see rest() */
	bool grown;	/* more than what is always kept */
	bool used;	/* grown, and used so since the last tick */
	unsigned place; /* of its last command among the SQEs */
};

struct cow_uqueue_config {
	struct cow_image *image;
	const struct cow_transfer_ops *transfer;
	int char_fd;
	int event_fd;  /* eventfd, written when the queue has drained */
	int answer_fd; /* eventfd, written when the queue has said what its requests are at */
	unsigned idx, depth;
	uint32_t buffer_bytes; /* of each tag */
	cpu_set_t cpus;	       /* the thread's affinity, if pinned */
	bool pinned;
	bool keep_memory;		   /* all of it, from the start on */
	const struct cow_sandbox *sandbox; /* what the thread gives up when it serves */
};

/* A request in flight, as it was at some moment. */
struct cow_uqueue_request {
	unsigned queue;
	bool peeked; /* its thread did not answer: nothing but idx, kind, off and end is known */
	uint64_t age_ns;
	struct cow_inspected engine;
};

/* What a queue says when it is asked; the asker's while `asked` is false, else the queue thread's. */
struct cow_uqueue_answer {
	struct cow_msg msg;
	_Atomic bool asked;
	unsigned nr;
	struct cow_uqueue_request *requests; /* as many as the queue has tags */
};

struct cow_uqueue {
	/* constant while the thread runs */
	struct cow_uqueue_config config;
	struct cow_loop *loop;
	const struct ub_io_desc *descs; /* shared with the kernel */
	size_t descs_bytes;
	uint8_t *buffers;
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
	unsigned nr_rounds;
	uint64_t round_ns; /* when this round of the loop began its first request; 0: not yet */
	struct cow_msg quit_msg, abandon_msg;

	/* thread -> starter */
	struct cow_mutex_uqueue lock;
	pthread_cond_t changed;
	bool reported COW_GUARDED_BY(uqueue);
	int error COW_GUARDED_BY(uqueue);  /* why it could not begin to serve */
	bool keeps COW_GUARDED_BY(uqueue); /* gives no memory back any more */
	_Atomic bool drained;
	_Atomic bool lost_writes; /* a write was answered with an error */

	struct cow_uqueue_answer answer;
};

/*
 * Allocates everything, starts the thread and waits until every tag's fetch command is with the
 * kernel. 0 or -errno; after a failure nothing is left.
 */
COW_MUST_CHECK int cow_uqueue_start(struct cow_uqueue *queue,
				    const struct cow_uqueue_config *config);

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

/*
 * All memory that it can ever need is taken now, and kept: for swap. From any thread that may wait
 * for memory, while the queue's thread runs.
 */
void cow_uqueue_keep_memory(struct cow_uqueue *queue);

/*
 * What the requests in flight are at. From one thread, as long as the queue's thread runs: ask, then
 * look again and again whether it has answered (answer_fd), which it does between two rounds of its
 * loop. A question that it has not answered yet stands. Never waits.
 */
void cow_uqueue_ask(struct cow_uqueue *queue);
bool cow_uqueue_has_answered(const struct cow_uqueue *queue);
/*
 * At most max requests. Of a queue that has not answered: what can be seen from outside, each of them
 * whole, or left out when it ends this very moment.
 */
unsigned cow_uqueue_requests(const struct cow_uqueue *queue, struct cow_uqueue_request *out,
			     unsigned max);

static inline bool cow_uqueue_drained(const struct cow_uqueue *queue)
{
	return queue->drained;
}

#endif
