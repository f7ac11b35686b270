/* SPDX-License-Identifier: MIT */
/*
 * The header's part in repairs: one write of its first sector between two barriers; the dirty and
 * corrupt bits.
 */
#include <errno.h>
#include <stdlib.h>

#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/check/checker.h"
#include "engine/check/repair_header.h"
#include "engine/loop/blocking.h"

int cow_repair_update_header(struct cow_loop *loop, struct cow_file *file,
			     void (*change)(uint8_t *sector, void *ctx), void *ctx)
{
	uint8_t *sector = cow_buf_alloc(512);
	int ret = sector ? cow_loop_sync(loop, file) : -ENOMEM;
	if (!ret)
		ret = cow_loop_read(loop, file, 0, sector, 512);
	if (!ret) {
		change(sector, ctx);
		ret = cow_loop_write(loop, file, 0, sector, 512);
	}
	if (!ret)
		ret = cow_loop_sync(loop, file);
	free(sector);
	return ret;
}

static void clear_bits(uint8_t *sector, void *ctx)
{
	uint8_t *p = sector + offsetof(struct qcow2_header_be, incompatible_features);
	const uint64_t *bits = ctx;
	cow_store64_be(p, cow_load64_be(p) & ~*bits);
}

int cow_repair_clear_bits(struct cow_loop *loop, struct cow_file *file, uint64_t bits)
{
	return cow_repair_update_header(loop, file, clear_bits, &bits);
}
