/* SPDX-License-Identifier: MIT */
/* Changes of the header by a repair. */
#ifndef COW_REPAIR_HEADER_H
#define COW_REPAIR_HEADER_H

#include <stdint.h>

#include "engine/base/result.h"
#include "engine/loop/loop.h"

/* barrier | change() of the header's first sector | barrier */
COW_MUST_CHECK int cow_repair_update_header(struct cow_loop *loop, struct cow_file *file,
					    void (*change)(uint8_t *sector, void *ctx), void *ctx);
/* After the last round. */
COW_MUST_CHECK int cow_repair_clear_bits(struct cow_loop *loop, struct cow_file *file,
					 uint64_t bits);

#endif
