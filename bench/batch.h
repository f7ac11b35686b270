/* SPDX-License-Identifier: MIT */
/* A list of guest requests, kept at a depth on one queue. For the counting and the micro benchmark.
 */
#ifndef BENCH_BATCH_H
#define BENCH_BATCH_H

#include "engine/life/image.h"
#include "engine/request/kind.h"

#define BENCH_MAX_DEPTH 256

struct bench_batch {
	struct cow_queue *queue;
	struct cow_loop *loop;
	enum cow_op_kind kind;
	uint64_t length_bytes; /* of each request */
	const uint64_t *offsets;
	size_t nr;
	unsigned depth; /* requests in flight; the queue has as many ops */
	char *memory;	/* depth buffers of length_bytes, 512-aligned */
	/* run's */
	size_t next, finished;
	int error;
};

/* Runs all of it; 0 or the first error. The slots' state needs 32 bytes a request in flight, on the
 * stack. */
int bench_batch_run(struct bench_batch *batch);

/* A FLUSH on the queue, waited for. */
int bench_flush(struct cow_queue *queue, struct cow_loop *loop);

#endif
