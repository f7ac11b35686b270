/* SPDX-License-Identifier: MIT */
/* The kernel's words for a request and its answer, and the engine's. Pure. */
#ifndef COW_REQUEST_H
#define COW_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/result.h"
#include "engine/life/image.h"
#include "engine/request/kind.h"
#include "uapi/ublk.h"

struct cow_request {
	enum cow_op_kind kind;
	unsigned flags; /* COW_OP_* */
	uint64_t offset, length;
};

static inline bool cow_request_has_data(const struct cow_request *request)
{
	return request->kind == COW_OP_READ || request->kind == COW_OP_WRITE;
}

/*
 * buffer_bytes: the most a READ or WRITE may have. -EOPNOTSUPP for an operation that we never
 * offered.
 */
COW_MUST_CHECK int cow_request_decode(const struct ub_io_desc *desc, uint32_t buffer_bytes,
				      struct cow_request *request);

/*
 * The engine's 0 or -errno -> what COMMIT carries; data_bytes answers a successful READ or WRITE,
 * else it is 0.
 */
int32_t cow_request_answer(int result, uint32_t data_bytes);

#endif
