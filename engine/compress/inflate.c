/* SPDX-License-Identifier: MIT */
#include "engine/compress/inflate.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "uapi/qcow2.h"

/*
 * A frame says how much memory its reader needs; 8 MiB is what RFC 8878 asks every reader to have.
 * No cluster is larger than 2 MiB.
 */
#define ZSTD_WINDOW_LOG_MAX 23

struct cow_inflate {
	z_stream zlib;
	ZSTD_DCtx *zstd;
};

struct cow_inflate *cow_inflate_new(void)
{
	struct cow_inflate *inflate = calloc(1, sizeof(*inflate));
	if (!inflate)
		return NULL;
	inflate->zstd = ZSTD_createDCtx();
	if (!inflate->zstd ||
	    ZSTD_isError(ZSTD_DCtx_setParameter(inflate->zstd, ZSTD_d_windowLogMax,
						ZSTD_WINDOW_LOG_MAX)) ||
	    inflateInit2(&inflate->zlib, QCOW2_ZLIB_WINDOW_BITS) != Z_OK) {
		ZSTD_freeDCtx(inflate->zstd);
		free(inflate);
		return NULL;
	}
	return inflate;
}

void cow_inflate_free(struct cow_inflate *inflate)
{
	if (!inflate)
		return;
	inflateEnd(&inflate->zlib);
	ZSTD_freeDCtx(inflate->zstd);
	free(inflate);
}

static int inflate_zlib(z_stream *z, const uint8_t *in, size_t in_bytes, uint8_t *out,
			size_t out_bytes)
{
	if (inflateReset2(z, QCOW2_ZLIB_WINDOW_BITS) != Z_OK)
		return -EIO;
	z->next_in = (uint8_t *)(uintptr_t)in;
	z->avail_in = (uInt)in_bytes;
	z->next_out = out;
	z->avail_out = (uInt)out_bytes;
	int ret = inflate(z, Z_FINISH);
	/* A full output with input left over is fine: the length in the entry is an upper bound. */
	return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && z->avail_out == 0 ? 0 : -EIO;
}

static int inflate_zstd(ZSTD_DCtx *zstd, const uint8_t *in, size_t in_bytes, uint8_t *out,
			size_t out_bytes)
{
	ZSTD_inBuffer src = { .src = in, .size = in_bytes };
	ZSTD_outBuffer dst = { .dst = out, .size = out_bytes };
	ZSTD_DCtx_reset(zstd, ZSTD_reset_session_only);
	while (dst.pos < dst.size) {
		size_t before = dst.pos, fed = src.pos;
		size_t ret = ZSTD_decompressStream(zstd, &dst, &src);
		if (ZSTD_isError(ret) || (dst.pos == before && src.pos == fed))
			return -EIO;
	}
	return 0;
}

int cow_inflate_cluster(struct cow_inflate *inflate, uint8_t type, const uint8_t *in,
			size_t in_bytes, uint8_t *out, size_t out_bytes)
{
	if (type == QCOW2_COMPRESSION_ZSTD)
		return inflate_zstd(inflate->zstd, in, in_bytes, out, out_bytes);
	return inflate_zlib(&inflate->zlib, in, in_bytes, out, out_bytes);
}
