/* SPDX-License-Identifier: MIT */
/* Compressed clusters as others write them: how much memory a frame may ask for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zstd.h>

#include "engine/compress/deflate.h"
#include "engine/compress/inflate.h"
#include "uapi/qcow2.h"

#define CLUSTER 65536u

/* A frame of one cluster that does not tell its size, and wants a window of 1 << log bytes. */
static size_t frame(const uint8_t *in, int log, uint8_t *out, size_t bytes)
{
	ZSTD_CCtx *z = ZSTD_createCCtx();
	ZSTD_inBuffer src = { in, CLUSTER / 2, 0 };
	ZSTD_outBuffer dst = { out, bytes, 0 };
	ZSTD_CCtx_setParameter(z, ZSTD_c_windowLog, log);
	assert_false(ZSTD_isError(ZSTD_compressStream2(z, &dst, &src, ZSTD_e_continue)));
	src.size = CLUSTER;
	assert_int_equal(ZSTD_compressStream2(z, &dst, &src, ZSTD_e_end), 0);
	ZSTD_freeCCtx(z);
	return dst.pos;
}

static void test_zstd_window(void **state)
{
	uint8_t *in = malloc(CLUSTER), *packed = malloc(2 * CLUSTER), *out = malloc(CLUSTER);
	struct cow_inflate *inflate = cow_inflate_new();
	for (unsigned i = 0; i < CLUSTER; i++)
		in[i] = (uint8_t)(i * i >> 7);
	for (int log = 10; log <= 27; log++) {
		size_t n = frame(in, log, packed, 2 * CLUSTER);
		int ret = cow_inflate_cluster(inflate, QCOW2_COMPRESSION_ZSTD, packed, n, out,
					      CLUSTER);
		assert_int_equal(ret == 0, log <= 23);
		if (!ret)
			assert_memory_equal(in, out, CLUSTER);
	}
	cow_inflate_free(inflate);
	free(in);
	free(packed);
	free(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_zstd_window),
	};
	return cmocka_run_group_tests_name("compress", tests, NULL, NULL);
}
