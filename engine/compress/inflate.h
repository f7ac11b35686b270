/* SPDX-License-Identifier: MIT */
/*
 * Decompression of one cluster: raw deflate (zlib) or zstd. Specification: "Cluster
 * mapping", compressed clusters.
 */
#ifndef COW_INFLATE_H
#define COW_INFLATE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/result.h"

/* Reusable state, so that nothing allocates per cluster. One per user at a time. */
struct cow_inflate;

struct cow_inflate *cow_inflate_new(void);
void cow_inflate_free(struct cow_inflate *inflate);

/*
 * in[in_bytes] is an upper bound of the compressed data; exactly out_bytes must come out of it.
 * type: QCOW2_COMPRESSION_*.
 * 0 or -EIO (broken data).
 */
COW_MUST_CHECK int cow_inflate_cluster(struct cow_inflate *inflate, uint8_t type, const uint8_t *in,
				       size_t in_bytes, uint8_t *out, size_t out_bytes);

#endif
