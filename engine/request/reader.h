/* SPDX-License-Identifier: MIT */
/*
 * Guest range -> buffer through the backing chain: for READ, and for what copy on write brings
 * along.
 */
#ifndef COW_READER_H
#define COW_READER_H

#include "engine/request/op.h"

/* Read [reader->pos, reader->end): COW_AGAIN when all of it is in the buffer, else COW_WAIT. */
enum cow_next cow_reader_read(struct cow_op *op, struct cow_reader *reader);
/* At the op's end, in case it failed on the way. */
void cow_reader_end(struct cow_op *op, struct cow_reader *reader);

#endif
