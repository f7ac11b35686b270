/* SPDX-License-Identifier: MIT */
/*
 * The loop over io_uring, for those who put requests of their own on its ring (the ublk server).
 * All calls from the owner's thread. user_data of every SQE points to a struct cow_completion
 * (loop.h).
 */
#ifndef COW_LOOP_URING_H
#define COW_LOOP_URING_H

#include <liburing.h>

#include "engine/loop/loop.h"

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

/* Whether the kernel knows the opcode (IORING_OP_*). */
bool cow_uring_has_op(const struct cow_loop *loop, unsigned opcode);

#endif
