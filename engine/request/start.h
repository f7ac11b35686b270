/* SPDX-License-Identifier: MIT */
/* Start and end of requests: on top of all kinds of them. */
#ifndef COW_START_H
#define COW_START_H

#include "engine/request/op.h"

/* Once, when the queue is made. */
void cow_start_init(struct cow_op *op, struct cow_queue *queue, unsigned idx);
/* kind, flags, off, buf, done, ctx are set. */
void cow_start_request(struct cow_op *op, uint64_t length);

#endif
