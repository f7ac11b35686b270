/* SPDX-License-Identifier: MIT */
/*
 * The engine's only way to the outside: host files, asynchronous I/O on embedded completions,
 * messages between threads, time. Three bodies: io_uring (loop_uring.c; daemon, bench), plain
 * system calls (loop_plain.c; offline tools where io_uring is forbidden, valgrind) and the
 * simulator
 * (tests/sim).
 *
 * Threads: a loop belongs to one thread (its owner). Everything here is called by the owner, except
 * cow_loop_post().
 *
 * Order within cow_loop_run(): completions are drained first (their done functions run), then
 * deferred messages.
 */
#ifndef COW_LOOP_H
#define COW_LOOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/result.h"
#include "engine/loop/io.h"

struct cow_file;

/* ---- messages ---- */

/* Embedded; owned by the loop from post/defer until fn is called. */
struct cow_msg {
	struct cow_msg *next;
	void (*fn)(struct cow_msg *msg);
};

/*
 * Run msg->fn on target's thread, soon. Any thread may call; wakes the target. From the owner it is
 * a defer.
 */
void cow_loop_post(struct cow_loop *target, struct cow_msg *msg);

/* Nanoseconds, monotonic (simulated in the simulator). */
uint64_t cow_loop_now(struct cow_loop *loop);

/* ---- running ---- */

/*
 * One round: submit what is queued, wait for at least one event if nothing is ready, drain
 * completions, run deferred messages until none is left. Returns 0 or -errno (the ring itself
 * broke).
 */
COW_MUST_CHECK int cow_loop_run(struct cow_loop *loop);
/* The same without waiting. */
COW_MUST_CHECK int cow_loop_poll(struct cow_loop *loop);

/* Rounds until *flag is true. For the blocking control plane. */
COW_MUST_CHECK int cow_loop_run_until(struct cow_loop *loop, const bool *flag);

/* ---- for bodies ---- */

struct cow_loop_ops {
	/*
	 * Start io once, from progress_bytes on (vec already points there). Later, from drain(),
	 * the body calls cow_io_raw_done() with what the host said: bytes or -errno.
	 */
	void (*start)(struct cow_loop *loop, struct cow_io *io);
	/*
	 * Submit what is queued; if `wait`, block until a completion or a wake() arrives; drain
	 * completions.
	 */
	int (*drain)(struct cow_loop *loop, bool wait);
	/* From any thread: make a blocked or future drain(wait) return. */
	void (*wake)(struct cow_loop *loop);
	uint64_t (*now)(struct cow_loop *loop);
	void (*free)(struct cow_loop *loop);
};

/* Embedded first in a body's own loop object. */
struct cow_loop {
	const struct cow_loop_ops *ops;
	/* owner's: messages to run after the drain */
	struct cow_msg *ready_head, **ready_tail;
	/* any thread: lock-free stack of posted messages */
	_Atomic(struct cow_msg *) inbox;
	/*
	 * Set by a body that hands on completions in batches, while it hands on one: all of them had
	 * ended before the first one was handed on. whole: found to be so since (io.c).
	 */
	bool in_batch;
	const struct cow_file *whole;
};

void cow_loop_init(struct cow_loop *loop, const struct cow_loop_ops *ops);

void cow_loop_free(struct cow_loop *loop);

/*
 * Bind the loop to the calling thread: messages posted by it to its own loop are deferred without a
 * wake. NULL unbinds.
 */
void cow_loop_enter(struct cow_loop *loop);

#endif
