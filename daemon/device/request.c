/* SPDX-License-Identifier: MIT */
#include "daemon/device/request.h"

#include <errno.h>

#include "engine/request/kind.h"

#define SECTOR_SHIFT 9

static const struct {
	enum cow_op_kind kind;
	bool known;
} kinds[] = {
	[UB_IO_OP_READ] = { COW_OP_READ, true },
	[UB_IO_OP_WRITE] = { COW_OP_WRITE, true },
	[UB_IO_OP_FLUSH] = { COW_OP_FLUSH, true },
	[UB_IO_OP_DISCARD] = { COW_OP_DISCARD, true },
	[UB_IO_OP_WRITE_ZEROES] = { COW_OP_WRITE_ZEROES, true },
};

static unsigned decode_flags(uint32_t op_flags, enum cow_op_kind kind)
{
	unsigned flags = 0;
	if ((op_flags & UB_IO_F_FUA) && (kind == COW_OP_WRITE || kind == COW_OP_WRITE_ZEROES))
		flags |= COW_OP_FUA;
	if ((op_flags & UB_IO_F_NOUNMAP) && kind == COW_OP_WRITE_ZEROES)
		flags |= COW_OP_NOUNMAP;
	return flags;
}

int cow_request_decode(const struct ub_io_desc *desc, uint32_t buffer_bytes,
		       struct cow_request *request)
{
	uint32_t op = desc->op_flags & UB_IO_OP_MASK;
	if (op >= sizeof(kinds) / sizeof(kinds[0]) || !kinds[op].known)
		return -EOPNOTSUPP;
	request->kind = kinds[op].kind;
	request->flags = decode_flags(desc->op_flags, request->kind);
	request->offset = desc->start_sector << SECTOR_SHIFT;
	request->length = (uint64_t)desc->nr_sectors << SECTOR_SHIFT;
	if (request->kind == COW_OP_FLUSH)
		request->offset = request->length = 0;
	return cow_request_has_data(request) && request->length > buffer_bytes ? -EIO : 0;
}

/*
 * The kernel turns -ENOSPC and -EOPNOTSUPP into statuses of their own, which file systems act upon.
 * Others it would take for something else (-EAGAIN and -ENOMEM ask for a retry that may never
 * succeed), so they all are I/O errors.
 */
int32_t cow_request_answer(int result, uint32_t data_bytes)
{
	if (result == 0)
		return (int32_t)data_bytes;
	return result == -ENOSPC || result == -EOPNOTSUPP ? result : -EIO;
}
