/* SPDX-License-Identifier: MIT */
/*
 * Header, extensions and backing name: a table of headers that break one rule each, with the rule
 * that must be named, and the offset; and that what is right passes and survives a round trip.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/be.h"
#include "engine/format/format.h"
#include "engine/format/reference.h"

#define CLUSTER_BYTES 65536u
#define FILE_BYTES (64u << 20)

/* A sound version 3 header of a 1 GiB disk. */
static const struct cow_header sound = {
	.version = 3,
	.cluster_bits = 16,
	.size_bytes = 1ull << 30,
	.l1_entries = 2,
	.l1_off = 0x30000,
	.reftable_off = 0x10000,
	.reftable_clusters = 1,
	.refcount_order = 4,
	.header_bytes = 112,
};

static uint8_t *encode(const struct cow_header *h)
{
	uint8_t *cluster = calloc(1, CLUSTER_BYTES);
	cow_header_encode(h, cluster, CLUSTER_BYTES);
	return cluster;
}

static int decode(const uint8_t *cluster, struct cow_header *h, struct cow_error *err)
{
	struct cow_extensions ext;
	char name[1024];
	int ret = cow_header_decode(cluster, CLUSTER_BYTES, h, err);
	if (!ret)
		ret = cow_header_verify_file(h, FILE_BYTES, err);
	if (!ret)
		ret = cow_extensions_decode(cluster, h, &ext, err);
	return ret ? ret : cow_reference_backing_name(cluster, h, name, err);
}

/* One field of the sound header is overwritten. */
struct broken {
	unsigned off, bytes;
	uint64_t value;
	int code;
	const char *text; /* must be in the message */
};

#define AT(field) offsetof(struct qcow2_header_be, field)
#define B32(field, value, text)                                                                    \
	{                                                                                          \
		AT(field), 4, value, -EINVAL, text                                                 \
	}
#define B64(field, value, text)                                                                    \
	{                                                                                          \
		AT(field), 8, value, -EINVAL, text                                                 \
	}

static const struct broken broken_headers[] = {
	B32(magic, 0x514649fa, "magic at offset 0"),
	{ 4, 4, 1, -ENOTSUP, "version at offset 4" },
	{ 4, 4, 4, -ENOTSUP, "version at offset 4" },
	B32(cluster_bits, 8, "cluster_bits at offset 20"),
	B32(cluster_bits, 22, "cluster_bits at offset 20"),
	B32(cluster_bits, 0xffffffff, "cluster_bits at offset 20"),
	B64(size, (1 << 20) + 256, "size at offset 24"),
	B64(size, (1ull << 63), "size at offset 24"),
	B64(size, 1ull << 40, "l1_size at offset 36"),
	{ AT(crypt_method), 4, 3, -ENOTSUP, "crypt_method at offset 32" },
	B32(crypt_method, 2, "LUKS without an encryption header"),
	B32(l1_size, (4u << 20) + 1, "l1_size at offset 36"),
	B32(l1_size, 1, "l1_size at offset 36"),
	B64(l1_table_offset, 0x30200, "l1_table_offset at offset 40"),
	B64(l1_table_offset, 0, "l1_table_offset at offset 40"),
	B64(l1_table_offset, FILE_BYTES, "l1_table_offset at offset 40"),
	B64(l1_table_offset, 0xffffffffffff0000, "l1_table_offset at offset 40"),
	B64(l1_table_offset, 0x10000, "overlap the refcount table"),
	B64(refcount_table_offset, 0, "refcount_table_offset at offset 48"),
	B64(refcount_table_offset, 0x10008, "refcount_table_offset at offset 48"),
	B64(refcount_table_offset, FILE_BYTES, "refcount_table_offset at offset 48"),
	B64(refcount_table_offset, 0xffffffffffff0000, "refcount_table_offset at offset 48"),
	B32(refcount_table_clusters, 0, "refcount_table_clusters at offset 56"),
	B32(refcount_table_clusters, 129, "refcount_table_clusters at offset 56"),
	B32(refcount_table_clusters, 0xffffffff, "refcount_table_clusters at offset 56"),
	B32(nb_snapshots, 65537, "nb_snapshots at offset 60"),
	B32(nb_snapshots, 1, "snapshots_offset at offset 64"),
	B64(snapshots_offset, 0x200, "snapshots_offset at offset 64"),
	{ AT(incompatible_features), 8, 1ull << 5, -ENOTSUP, "bit 5" },
	{ AT(incompatible_features), 8, 1ull << 63, -ENOTSUP, "bit 63" },
	B64(incompatible_features, 8, "compression_type at offset 104"),
	B32(refcount_order, 7, "refcount_order at offset 96"),
	B32(refcount_order, 0xffffffff, "refcount_order at offset 96"),
	B32(header_length, 96, "header_length at offset 100"),
	B32(header_length, 108, "header_length at offset 100"),
	B32(header_length, CLUSTER_BYTES + 8, "header_length at offset 100"),
	{ AT(compression_type), 1, 1, -EINVAL, "compression_type at offset 104" },
	{ AT(compression_type), 1, 2, -ENOTSUP, "compression_type at offset 104" },
	B64(backing_file_offset, 8, "backing_file_offset at offset 8"),
	B64(backing_file_offset, CLUSTER_BYTES + 1, "backing_file_offset at offset 8"),
	B64(backing_file_offset, 0xfffffffffffffff0, "backing_file_offset at offset 8"),
	B32(backing_file_size, 5, "backing_file_size at offset 16"),
};

static void store(uint8_t *p, unsigned bytes, uint64_t value)
{
	if (bytes == 1)
		*p = (uint8_t)value;
	else if (bytes == 4)
		cow_store32_be(p, (uint32_t)value);
	else
		cow_store64_be(p, value);
}

static void assert_error(const struct cow_error *err, int ret, int code, const char *text)
{
	if (ret != code || err->code != code || !strstr(err->text, text))
		fail_msg("wanted %d '%s', got %d '%s'", code, text, ret, err->text);
}

static void one_broken_field(void **state)
{
	for (size_t i = 0; i < sizeof(broken_headers) / sizeof(broken_headers[0]); i++) {
		const struct broken *b = &broken_headers[i];
		struct cow_header h;
		struct cow_error err = { 0 };
		uint8_t *cluster = encode(&sound);
		store(cluster + b->off, b->bytes, b->value);
		int ret = decode(cluster, &h, &err);
		assert_error(&err, ret, b->code, b->text);
		free(cluster);
	}
}

/* Field by field: what lies between the fields is nobody's, and compilers differ in it. */
static void assert_same_header(const struct cow_header *a, const struct cow_header *b)
{
	assert_int_equal(a->version, b->version);
	assert_int_equal(a->backing_name_off, b->backing_name_off);
	assert_int_equal(a->backing_name_bytes, b->backing_name_bytes);
	assert_int_equal(a->cluster_bits, b->cluster_bits);
	assert_int_equal(a->size_bytes, b->size_bytes);
	assert_int_equal(a->crypt_method, b->crypt_method);
	assert_int_equal(a->l1_entries, b->l1_entries);
	assert_int_equal(a->l1_off, b->l1_off);
	assert_int_equal(a->reftable_off, b->reftable_off);
	assert_int_equal(a->reftable_clusters, b->reftable_clusters);
	assert_int_equal(a->nr_snapshots, b->nr_snapshots);
	assert_int_equal(a->snapshots_off, b->snapshots_off);
	assert_int_equal(a->incompatible, b->incompatible);
	assert_int_equal(a->compatible, b->compatible);
	assert_int_equal(a->autoclear, b->autoclear);
	assert_int_equal(a->refcount_order, b->refcount_order);
	assert_int_equal(a->header_bytes, b->header_bytes);
	assert_int_equal(a->compression_type, b->compression_type);
}

static void sound_header_survives(void **state)
{
	struct cow_header h;
	struct cow_error err = { 0 };
	uint8_t *cluster = encode(&sound);
	assert_int_equal(decode(cluster, &h, &err), 0);
	assert_same_header(&h, &sound);
	free(cluster);
}

static void version_2_implies(void **state)
{
	struct cow_header h, old = sound;
	struct cow_error err = { 0 };
	old.version = 2;
	uint8_t *cluster = encode(&old);
	/* What would be version 3 fields is the extension area of version 2: END at once. */
	assert_int_equal(decode(cluster, &h, &err), 0);
	assert_int_equal(h.refcount_order, 4);
	assert_int_equal(h.header_bytes, 72);
	assert_int_equal(h.incompatible, 0);
	free(cluster);
}

static void encode_keeps_longer_header(void **state)
{
	struct cow_header h = sound;
	uint8_t cluster[256];
	memset(cluster, 0xee, sizeof(cluster));
	h.header_bytes = 128;
	cow_header_encode(&h, cluster, sizeof(cluster));
	assert_int_equal(cluster[111], 0);
	assert_int_equal(cluster[112], 0xee);
	h.header_bytes = 104;
	memset(cluster, 0xee, sizeof(cluster));
	cow_header_encode(&h, cluster, sizeof(cluster));
	assert_int_equal(cluster[104], 0xee);
}

static void extended_l2_needs_large_clusters(void **state)
{
	struct cow_header h = sound;
	struct cow_error err = { 0 };
	h.incompatible = QCOW2_INCOMPAT_EXTL2;
	h.cluster_bits = 13;
	h.size_bytes = 1 << 20;
	uint8_t *cluster = encode(&h);
	int ret = decode(cluster, &h, &err);
	assert_error(&err, ret, -EINVAL, "cluster_bits at offset 20");
	free(cluster);
}

static void smallest_header_sizes(void **state)
{
	struct cow_header h = sound;
	struct cow_error err = { 0 };
	h.header_bytes = 104;
	h.size_bytes = 0;
	h.l1_entries = 0;
	h.l1_off = 0;
	uint8_t *cluster = encode(&h);
	assert_int_equal(decode(cluster, &h, &err), 0);
	free(cluster);
}

/* ---- extensions ---- */

static size_t put(uint8_t *cluster, size_t off, uint32_t type, const void *data, uint32_t bytes)
{
	cow_store32_be(cluster + off, type);
	cow_store32_be(cluster + off + 4, bytes);
	memcpy(cluster + off + 8, data, bytes);
	return off + 8 + ((bytes + 7) & ~7u);
}

static void all_extensions(void **state)
{
	struct cow_header h = sound;
	struct cow_extensions ext;
	struct cow_error err = { 0 };
	uint8_t bitmaps[24] = { 0 }, crypto[16] = { 0 };
	h.autoclear = QCOW2_AUTOCLEAR_BITMAPS;
	h.crypt_method = QCOW2_CRYPT_LUKS;
	cow_store32_be(bitmaps, 3);
	cow_store64_be(bitmaps + 8, 96);
	cow_store64_be(bitmaps + 16, 0x50000);
	cow_store64_be(crypto, 0x60000);
	cow_store64_be(crypto + 8, 4096);
	uint8_t *cluster = encode(&h);
	size_t off = put(cluster, 112, QCOW2_EXT_BACKING_FORMAT, "raw", 3);
	off = put(cluster, off, 0x12345678, "unknown", 7);
	off = put(cluster, off, QCOW2_EXT_DATA_FILE, "data", 4);
	off = put(cluster, off, QCOW2_EXT_BITMAPS, bitmaps, 24);
	off = put(cluster, off, QCOW2_EXT_CRYPTO, crypto, 16);
	assert_int_equal(cow_extensions_decode(cluster, &h, &ext, &err), 0);
	assert_true(ext.has_backing_format && ext.has_data_file && ext.has_bitmaps &&
		    ext.has_crypto);
	assert_string_equal(ext.backing_format, "raw");
	assert_string_equal(ext.data_file, "data");
	assert_int_equal(ext.nr_bitmaps, 3);
	assert_int_equal(ext.bitmap_directory_off, 0x50000);
	assert_int_equal(ext.crypto_off, 0x60000);
	assert_int_equal(ext.end_off, off + 8);
	/* Bitmaps that the autoclear bit does not vouch for are not there. */
	h.autoclear = 0;
	assert_int_equal(cow_extensions_decode(cluster, &h, &ext, &err), 0);
	assert_false(ext.has_bitmaps);
	free(cluster);
}

struct broken_extension {
	uint32_t type, bytes;
	unsigned at;
	uint32_t value; /* stored at `at` in otherwise sound data */
	const char *text;
};

static const struct broken_extension broken_extensions[] = {
	{ QCOW2_EXT_BACKING_FORMAT, 64, 0, 0x41414141, "backing format extension at offset 112" },
	{ QCOW2_EXT_BACKING_FORMAT, 4, 0, 0x41004141, "NUL" },
	{ QCOW2_EXT_DATA_FILE, 1024, 0, 0x41414141, "data file name extension at offset 112" },
	{ QCOW2_EXT_BITMAPS, 16, 0, 1, "bitmaps extension at offset 112" },
	{ QCOW2_EXT_BITMAPS, 24, 0, 0, "number of bitmaps at offset 120" },
	{ QCOW2_EXT_BITMAPS, 24, 0, 65536, "number of bitmaps at offset 120" },
	{ QCOW2_EXT_BITMAPS, 24, 4, 1, "reserved field of the bitmaps extension at offset 124" },
	{ QCOW2_EXT_BITMAPS, 24, 8, 1, "bitmap directory size at offset 128" },
	{ QCOW2_EXT_BITMAPS, 24, 20, 0x50001, "bitmap directory offset at offset 136" },
	{ QCOW2_EXT_BITMAPS, 24, 20, 0, "bitmap directory offset at offset 136" },
	{ QCOW2_EXT_CRYPTO, 16, 4, 0x60000, "image that is not LUKS" },
	{ 0x99, 0x7fffffff, 0, 0, "header extension 0x00000099 at offset 112" },
	{ 0x99, CLUSTER_BYTES - 112 - 8 + 1, 0, 0, "header extension 0x00000099 at offset 112" },
};

static void put_sound_bitmaps(uint8_t *data)
{
	cow_store32_be(data, 1);
	cow_store64_be(data + 8, 32);
	cow_store64_be(data + 16, 0x50000);
}

static void one_broken_extension(void **state)
{
	for (size_t i = 0; i < sizeof(broken_extensions) / sizeof(broken_extensions[0]); i++) {
		const struct broken_extension *b = &broken_extensions[i];
		struct cow_header h = sound;
		struct cow_extensions ext;
		struct cow_error err = { 0 };
		h.autoclear = QCOW2_AUTOCLEAR_BITMAPS;
		uint8_t *cluster = encode(&h);
		cow_store32_be(cluster + 112, b->type);
		cow_store32_be(cluster + 116, b->bytes);
		if (b->type == QCOW2_EXT_BITMAPS)
			put_sound_bitmaps(cluster + 120);
		else
			memset(cluster + 120, 'A', 2000);
		cow_store32_be(cluster + 120 + b->at, b->value);
		int ret = cow_extensions_decode(cluster, &h, &ext, &err);
		assert_error(&err, ret, -EINVAL, b->text);
		free(cluster);
	}
}

static void same_extension_twice(void **state)
{
	struct cow_extensions ext;
	struct cow_error err = { 0 };
	uint8_t *cluster = encode(&sound);
	size_t off = put(cluster, 112, QCOW2_EXT_BACKING_FORMAT, "raw", 3);
	put(cluster, off, QCOW2_EXT_BACKING_FORMAT, "qcow2", 5);
	int ret = cow_extensions_decode(cluster, &sound, &ext, &err);
	assert_error(&err, ret, -EINVAL, "backing format extension at offset 128");
	free(cluster);
}

static void unknown_feature_by_its_name(void **state)
{
	struct cow_header h = sound;
	struct cow_error err = { 0 };
	uint8_t names[48] = { 0, 7 };
	memcpy(names + 2, "quantum\033[2J", 11);
	h.incompatible = 1 << 7;
	uint8_t *cluster = encode(&h);
	put(cluster, 112, QCOW2_EXT_FEATURE_NAMES, names, 48);
	int ret = decode(cluster, &h, &err);
	assert_error(&err, ret, -ENOTSUP, "bit 7 (quantum?[2J)");
	free(cluster);
}

/* ---- backing name ---- */

static void backing_name_ends_extensions(void **state)
{
	struct cow_header h = sound;
	struct cow_extensions ext;
	struct cow_error err = { 0 };
	char name[1024];
	h.backing_name_off = 112 + 16;
	h.backing_name_bytes = 8;
	uint8_t *cluster = encode(&h);
	put(cluster, 112, QCOW2_EXT_BACKING_FORMAT, "raw", 3);
	memcpy(cluster + 128, "base.img", 8);
	assert_int_equal(cow_extensions_decode(cluster, &h, &ext, &err), 0);
	assert_int_equal(ext.end_off, 128);
	assert_int_equal(cow_reference_backing_name(cluster, &h, name, &err), 0);
	assert_string_equal(name, "base.img");
	cluster[130] = 0;
	int ret = cow_reference_backing_name(cluster, &h, name, &err);
	assert_error(&err, ret, -EINVAL, "backing file name at offset 130");
	free(cluster);
}

static void longest_backing_name(void **state)
{
	struct cow_header h = sound;
	struct cow_error err = { 0 };
	char name[1024];
	h.backing_name_off = CLUSTER_BYTES - 1023;
	h.backing_name_bytes = 1023;
	uint8_t *cluster = encode(&h);
	memset(cluster + h.backing_name_off, 'x', 1023);
	assert_int_equal(decode(cluster, &h, &err), 0);
	assert_int_equal(cow_reference_backing_name(cluster, &h, name, &err), 0);
	assert_int_equal(strlen(name), 1023);
	cow_store32_be(cluster + 16, 1024);
	int ret = decode(cluster, &h, &err);
	assert_error(&err, ret, -EINVAL, "backing_file_size at offset 16");
	free(cluster);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_broken_field),
		cmocka_unit_test(sound_header_survives),
		cmocka_unit_test(version_2_implies),
		cmocka_unit_test(encode_keeps_longer_header),
		cmocka_unit_test(extended_l2_needs_large_clusters),
		cmocka_unit_test(smallest_header_sizes),
		cmocka_unit_test(all_extensions),
		cmocka_unit_test(one_broken_extension),
		cmocka_unit_test(same_extension_twice),
		cmocka_unit_test(unknown_feature_by_its_name),
		cmocka_unit_test(backing_name_ends_extensions),
		cmocka_unit_test(longest_backing_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
