/* SPDX-License-Identifier: MIT */
/*
 * What the requests of a queue are at: for `cowblk list --requests`, for the log, and for tests that
 * stand still. Read on the thread that owns the queue, between two rounds of its loop: there each
 * request is parked, waits for host I/O, or is about to run. The path of a request has nothing of it.
 */
#ifndef COW_INSPECT_H
#define COW_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/loop/io.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"

/* The texts are constant; io.path lives as long as the image is open. */
struct cow_inspected {
	unsigned idx; /* as it was given to cow_queue_submit() */
	enum cow_op_kind kind;
	unsigned flags;
	uint64_t off, end;     /* guest bytes; FLUSH: 0 */
	uint64_t cursor;       /* guest bytes: all before it is done, or is with the host */
	const char *step;      /* the name of the step that runs next, or again */
	const char *waits_for; /* what it is parked on; NULL: host I/O, if any, else its turn */
	int error;	       /* 0, or why it will fail: -errno */
	unsigned nr_ios;       /* of this request, with the host */
	struct {	       /* the first of them; nothing but zeros when there is none */
		enum cow_io_kind kind;
		const char *path;
		uint64_t offset, bytes; /* as in struct cow_io */
	} io;
};

/* False: no request idx is in flight. */
bool cow_inspect(const struct cow_queue *queue, unsigned idx, struct cow_inspected *out);

/* "read", "write", "flush", "discard", "write-zeroes" */
const char *cow_inspect_kind(enum cow_op_kind kind);

/* "2 host I/Os (write of 4096 bytes at 327680 of /a/b)" */
void cow_inspect_wait_text(const struct cow_inspected *request, char *text, size_t len);

/* A line of text for each request in flight, for a program that stands still. */
void cow_inspect_print(const struct cow_queue *queue, void (*line)(void *ctx, const char *text),
		       void *ctx);

#endif
