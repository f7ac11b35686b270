/* SPDX-License-Identifier: MIT */
/* What op.c gives to queue.c. */
#ifndef COW_QUEUE_H
#define COW_QUEUE_H

#include "engine/request/op.h"

void cow_op_init(struct cow_op *op, struct cow_queue *queue, unsigned idx);
/* kind, flags, off, buf, done, ctx are set. */
void cow_op_start(struct cow_op *op, uint64_t length);

#endif
