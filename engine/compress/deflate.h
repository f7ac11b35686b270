/* SPDX-License-Identifier: MIT */
/* Compression of one cluster: raw deflate (zlib) or zstd. See inflate.h. */
#ifndef COW_DEFLATE_H
#define COW_DEFLATE_H

#include <stdint.h>

/* Reusable state, so that nothing allocates per cluster. One per user at a time. */
struct cow_deflate;

struct cow_deflate *cow_deflate_new(uint8_t type);
void cow_deflate_free(struct cow_deflate *deflate);

/*
 * Bytes of the compressed form in out, or 0 when they do not fit into out_bytes (or the library
 * failed).
 */
uint32_t cow_deflate_cluster(struct cow_deflate *deflate, const uint8_t *in, uint32_t in_bytes,
			     uint8_t *out, uint32_t out_bytes);

#endif
