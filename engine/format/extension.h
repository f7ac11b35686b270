/* SPDX-License-Identifier: MIT */
/* Header extensions: what lies in the first cluster behind the header. See format.h. */
#ifndef COW_EXTENSION_H
#define COW_EXTENSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/format/header.h"

/*
 * Known header extensions. Fixed-size copies; what is unknown stays in the raw first cluster, which
 * rewrites keep.
 */
struct cow_extensions {
	bool has_backing_format;
	char backing_format[64]; /* NUL-terminated */
	bool has_data_file;
	char data_file[1024];
	bool has_bitmaps;
	uint32_t nr_bitmaps;
	uint64_t bitmap_directory_bytes, bitmap_directory_off;
	bool has_crypto;
	uint64_t crypto_off, crypto_bytes;
	uint64_t end_off; /* where the extension area ends (after the END extension) */
};

/* cluster: the whole first cluster (cluster_bytes, zero-padded). */
COW_MUST_CHECK int cow_extensions_decode(const uint8_t *cluster, const struct cow_header *h,
					 struct cow_extensions *ext, struct cow_error *err);

/* An extension at off of the first cluster; returns the offset behind it. */
size_t cow_extension_put(uint8_t *cluster, size_t off, uint32_t type, const void *data,
			 size_t bytes);

#endif
