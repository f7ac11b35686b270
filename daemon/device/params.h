/* SPDX-License-Identifier: MIT */
/* From an image's geometry to the parameters of its block device. Pure. */
#ifndef COW_PARAMS_H
#define COW_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/life/image.h"
#include "uapi/ublk.h"

/* What all tags' buffers of a device may take together, bytes; more tags get smaller buffers. */
#define COW_MAX_BUFFERS_BYTES (256ull << 20)
#define COW_MIN_BUFFER_BYTES (64u << 10)
/* DISCARD and WRITE_ZEROES, one request: as many clusters, and as many bytes, at most. */
#define COW_MAX_DISCARD_CLUSTERS 65536u
#define COW_MAX_DISCARD_BYTES (1u << 30)

/*
 * Bytes of one tag's buffer: COW_MAX_OP_BYTES, halved until queues * depth of them fit. A power of
 * two.
 */
uint32_t cow_params_buffer_bytes(unsigned queues, unsigned depth);

void cow_params_fill(struct ub_params *params, const struct cow_image_geometry *geometry,
		     uint32_t logical_bytes, uint32_t buffer_bytes, bool discard);

#endif
