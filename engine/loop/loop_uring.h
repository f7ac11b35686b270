/* SPDX-License-Identifier: MIT */
/*
 * The loop over io_uring, for those who put requests of their own on its ring (the ublk server).
 * All calls from the owner's thread. user_data of every SQE points to a struct cow_completion
 * (loop.h).
 */
#ifndef COW_LOOP_URING_H
#define COW_LOOP_URING_H

#include <liburing.h>

#include "engine/base/result.h"
#include "engine/loop/loop.h"

/*
 * Every ring that is made from now on holds this file, until the last of its I/O has ended: longer than
 * the process lives when that is killed, since the kernel goes on with direct I/O that has begun.
 * The other end of a pipe hangs up then. Of a process without threads.
 */
void cow_uring_hold(int fd);

/* depth: the number of I/Os expected at once (a hint, not a limit). */
COW_MUST_CHECK int cow_loop_uring_new(unsigned depth, struct cow_loop **out);
/* With so many places for registered buffers (guest.h), empty ones: the kernel fills them. */
COW_MUST_CHECK int cow_loop_uring_new_guests(unsigned depth, unsigned nr_guests,
					     struct cow_loop **out);

/*
 * A free SQE with user_data set to completion; never NULL: submits what is queued when the SQ is
 * full. Prepare it afterwards with io_uring_prep_*() or by hand, but leave user_data alone
 * (liburing's prep functions do), and before anything else is asked of the loop. It goes to the
 * kernel with the next cow_loop_run(). A multishot request calls fn once a CQE. The SQE is not
 * cleared: set every field that the operation reads (io_uring_prep_rw() does).
 */
struct io_uring_sqe *cow_uring_sqe(struct cow_loop *loop, struct cow_completion *completion);

/*
 * For registering files and buffers and for io_uring_sq_space_left(). Enables the ring for the
 * calling thread.
 */
struct io_uring *cow_uring_ring(struct cow_loop *loop);

/*
 * Outside of cow_loop_run(): no completion waits to be handled, and none comes before the next
 * cow_loop_run(): what the kernel does for them, it does in there. False also where the kernel
 * promises no such thing (before 6.1).
 */
bool cow_uring_is_quiet(struct cow_loop *loop);

/* A place in the queue of SQEs: behind the one that cow_uring_sqe() gave out last. */
unsigned cow_uring_place(struct cow_loop *loop);
/* Has the kernel taken all SQEs before that place? */
bool cow_uring_is_submitted(struct cow_loop *loop, unsigned place);

/* Whether the kernel knows the opcode (IORING_OP_*). */
bool cow_uring_has_op(const struct cow_loop *loop, unsigned opcode);

#endif
