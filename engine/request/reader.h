/* SPDX-License-Identifier: MIT */
/*
 * Guest range -> buffer through the backing chain: for READ, and for what copy on write brings
 * along.
 */
#ifndef COW_READER_H
#define COW_READER_H

#include "engine/request/op.h"

/*
 * The guest's bytes [pos, end) are to go to buf. Most requests have no use for the rest of a reader,
 * and to clear that costs more than all of this.
 */
static inline void cow_reader_begin(struct cow_reader *reader, uint64_t pos, uint64_t end,
				    uint8_t *buf)
{
	reader->pos = pos;
	reader->end = end;
	reader->buf = buf;
	reader->packed = NULL;
}

/* Read [reader->pos, reader->end): COW_AGAIN when all of it is in the buffer, else COW_WAIT. */
enum cow_next cow_reader_read(struct cow_op *op, struct cow_reader *reader);
/* At the op's end, in case it failed on the way. */
void cow_reader_end(struct cow_op *op, struct cow_reader *reader);

#endif
