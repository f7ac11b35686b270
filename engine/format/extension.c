/* SPDX-License-Identifier: MIT */
/*
 * Header extensions and the backing file's name: what lies in the first cluster behind the header.
 *
 * Each extension: uint32 type, uint32 length, data, padding to 8. The area ends at an END
 * extension, at the backing file's name, or with the cluster. What is unknown is skipped here and
 * kept by whoever rewrites the cluster.
 */
#include "engine/format/extension.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/base/be.h"

#define MAX_BITMAPS 65535u
#define MAX_CRYPTO_BYTES (64u << 20) /* LUKS 1 takes about 2 MiB */
#define MAX_BITMAP_DIRECTORY_BYTES (64u << 20)

/* One extension as it stands in the cluster. */
struct extension {
	uint32_t type;
	uint32_t bytes;
	uint64_t off; /* of its data */
	const uint8_t *data;
};

static int bad_length(const struct extension *x, const char *name, const char *why,
		      struct cow_error *err)
{
	return cow_error_set(err, -EINVAL,
			     "%s extension at offset %" PRIu64 ": length %" PRIu32 " %s", name,
			     x->off - 8, x->bytes, why);
}

static int bad_value(const struct extension *x, const char *what, unsigned at, uint64_t value,
		     struct cow_error *err)
{
	return cow_error_set(err, -EINVAL, "%s at offset %" PRIu64 ": %" PRIu64 " is not valid",
			     what, x->off + at, value);
}

static int load_string(const struct extension *x, const char *name, char *out, size_t out_bytes,
		       bool *has, struct cow_error *err)
{
	if (*has)
		return bad_length(x, name, "(a second one)", err);
	if (x->bytes >= out_bytes)
		return bad_length(x, name, "is too long", err);
	if (memchr(x->data, 0, x->bytes))
		return bad_length(x, name, "covers a NUL byte", err);
	memcpy(out, x->data, x->bytes);
	out[x->bytes] = '\0';
	*has = true;
	return 0;
}

static int load_bitmaps(const struct extension *x, const struct cow_header *h,
			struct cow_extensions *ext, struct cow_error *err)
{
	if (x->bytes != sizeof(struct qcow2_bitmaps_ext_be) || ext->has_bitmaps)
		return bad_length(x, "bitmaps", "is not 24, or there are two of them", err);
	/*
	 * Without the autoclear bit some program that knows no bitmaps wrote to the image: nothing
	 * they say can be trusted.
	 */
	if (!(h->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	uint32_t nr = cow_load32_be(x->data), reserved = cow_load32_be(x->data + 4);
	uint64_t bytes = cow_load64_be(x->data + 8), off = cow_load64_be(x->data + 16);
	if (!nr || nr > MAX_BITMAPS)
		return bad_value(x, "number of bitmaps", 0, nr, err);
	if (reserved)
		return bad_value(x, "reserved field of the bitmaps extension", 4, reserved, err);
	if (!bytes || bytes > MAX_BITMAP_DIRECTORY_BYTES)
		return bad_value(x, "bitmap directory size", 8, bytes, err);
	if (!off || off & (cow_cluster_bytes(h) - 1) || off > INT64_MAX - bytes)
		return bad_value(x, "bitmap directory offset", 16, off, err);
	ext->has_bitmaps = true;
	ext->nr_bitmaps = nr;
	ext->bitmap_directory_bytes = bytes;
	ext->bitmap_directory_off = off;
	return 0;
}

static int load_crypto(const struct extension *x, const struct cow_header *h,
		       struct cow_extensions *ext, struct cow_error *err)
{
	if (h->crypt_method != QCOW2_CRYPT_LUKS)
		return bad_length(x, "encryption header", "in an image that is not LUKS-encrypted",
				  err);
	if (x->bytes != 16 || ext->has_crypto)
		return bad_length(x, "encryption header", "is not 16, or there are two of them",
				  err);
	uint64_t off = cow_load64_be(x->data), bytes = cow_load64_be(x->data + 8);
	if (!off || off & (cow_cluster_bytes(h) - 1) || off > INT64_MAX)
		return bad_value(x, "encryption header offset", 0, off, err);
	if (!bytes || bytes > MAX_CRYPTO_BYTES)
		return bad_value(x, "encryption header length", 8, bytes, err);
	ext->has_crypto = true;
	ext->crypto_off = off;
	ext->crypto_bytes = bytes;
	return 0;
}

static int load_extension(const struct extension *x, const struct cow_header *h,
			  struct cow_extensions *ext, struct cow_error *err)
{
	switch (x->type) {
	case QCOW2_EXT_BACKING_FORMAT:
		return load_string(x, "backing format", ext->backing_format,
				   sizeof(ext->backing_format), &ext->has_backing_format, err);
	case QCOW2_EXT_DATA_FILE:
		return load_string(x, "data file name", ext->data_file, sizeof(ext->data_file),
				   &ext->has_data_file, err);
	case QCOW2_EXT_BITMAPS:
		return load_bitmaps(x, h, ext, err);
	case QCOW2_EXT_CRYPTO:
		return load_crypto(x, h, ext, err);
	default:
		return 0;
	}
}

static int finish(const struct cow_header *h, struct cow_extensions *ext, uint64_t end_off,
		  struct cow_error *err)
{
	ext->end_off = end_off;
	if ((h->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW) &&
	    !(h->incompatible & QCOW2_INCOMPAT_DATA_FILE))
		return cow_error_set(err, -EINVAL,
				     "autoclear_features at offset %zu: bit 1 (raw external data "
				     "file) in an image without an external data file",
				     offsetof(struct qcow2_header_be, autoclear_features));
	if (h->crypt_method == QCOW2_CRYPT_LUKS && !ext->has_crypto)
		return cow_error_set(
			err, -EINVAL,
			"crypt_method at offset %zu: LUKS without an encryption header "
			"extension",
			offsetof(struct qcow2_header_be, crypt_method));
	return 0;
}

int cow_extensions_decode(const uint8_t *cluster, const struct cow_header *h,
			  struct cow_extensions *ext, struct cow_error *err)
{
	uint64_t off = h->header_bytes;
	uint64_t end = h->backing_name_off ? h->backing_name_off : cow_cluster_bytes(h);
	memset(ext, 0, sizeof(*ext));
	while (off < end) {
		if (end - off < 8)
			break;
		struct extension x = {
			.type = cow_load32_be(cluster + off),
			.bytes = cow_load32_be(cluster + off + 4),
			.off = off + 8,
			.data = cluster + off + 8,
		};
		off += 8;
		if (x.type == QCOW2_EXT_END)
			break;
		if (x.bytes > end - off)
			return cow_error_set(err, -EINVAL,
					     "header extension 0x%08" PRIx32 " at offset %" PRIu64
					     ": length %" PRIu32
					     " runs past the end of the extension area at %" PRIu64,
					     x.type, x.off - 8, x.bytes, end);
		int ret = load_extension(&x, h, ext, err);
		if (ret)
			return ret;
		off += ((uint64_t)x.bytes + 7) & ~7ull;
	}
	return finish(h, ext, off < end ? off : end, err);
}

size_t cow_extension_put(uint8_t *cluster, size_t off, uint32_t type, const void *data,
			 size_t bytes)
{
	cow_store32_be(cluster + off, type);
	cow_store32_be(cluster + off + 4, (uint32_t)bytes);
	if (bytes)
		memcpy(cluster + off + 8, data, bytes);
	return off + 8 + ((bytes + 7) & ~(size_t)7);
}
