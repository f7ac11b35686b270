/* SPDX-License-Identifier: MIT */
/* What a request is, for who makes them; see queue.h. */
#ifndef COW_KIND_H
#define COW_KIND_H

enum cow_op_kind { COW_OP_READ, COW_OP_WRITE, COW_OP_FLUSH, COW_OP_DISCARD, COW_OP_WRITE_ZEROES };

enum cow_op_flags {
	COW_OP_FUA = 1 << 0,	 /* WRITE, WRITE_ZEROES: durable before it completes */
	COW_OP_NOUNMAP = 1 << 1, /* WRITE_ZEROES: keep the clusters allocated */
};

typedef void cow_op_done_fn(void *ctx, int result);

#endif
