/* SPDX-License-Identifier: MIT */
#include "engine/compress/deflate.h"

#include <stdbool.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "uapi/qcow2.h"

struct cow_deflate {
	uint8_t type;
	z_stream zlib;
	ZSTD_CCtx *zstd;
};

struct cow_deflate *cow_deflate_new(uint8_t type)
{
	struct cow_deflate *deflate = calloc(1, sizeof(*deflate));
	if (!deflate)
		return NULL;
	deflate->type = type;
	bool ok;
	if (type == QCOW2_COMPRESSION_ZSTD)
		ok = (deflate->zstd = ZSTD_createCCtx()) != NULL;
	else
		ok = deflateInit2(&deflate->zlib, Z_DEFAULT_COMPRESSION, Z_DEFLATED,
				  QCOW2_ZLIB_WINDOW_BITS, 9, Z_DEFAULT_STRATEGY) == Z_OK;
	if (ok)
		return deflate;
	free(deflate);
	return NULL;
}

void cow_deflate_free(struct cow_deflate *deflate)
{
	if (!deflate)
		return;
	if (deflate->type == QCOW2_COMPRESSION_ZSTD)
		ZSTD_freeCCtx(deflate->zstd);
	else
		deflateEnd(&deflate->zlib);
	free(deflate);
}

uint32_t cow_deflate_cluster(struct cow_deflate *d, const uint8_t *in, uint32_t in_bytes,
			     uint8_t *out, uint32_t out_bytes)
{
	if (d->type == QCOW2_COMPRESSION_ZSTD) {
		size_t n = ZSTD_compressCCtx(d->zstd, out, out_bytes, in, in_bytes, 0);
		return ZSTD_isError(n) ? 0 : (uint32_t)n;
	}
	z_stream *z = &d->zlib;
	if (deflateReset(z) != Z_OK)
		return 0;
	z->next_in = (uint8_t *)(uintptr_t)in;
	z->avail_in = in_bytes;
	z->next_out = out;
	z->avail_out = out_bytes;
	return deflate(z, Z_FINISH) == Z_STREAM_END ? out_bytes - z->avail_out : 0;
}
