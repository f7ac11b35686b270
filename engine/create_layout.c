/* SPDX-License-Identifier: MIT */
#include "engine/create_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/base/be.h"

static uint64_t div_up(uint64_t n, uint64_t unit)
{
	return n / unit + (n % unit != 0);
}

static uint32_t log2_exact(uint32_t v)
{
	return v && !(v & (v - 1)) ? (uint32_t)__builtin_ctz(v) : UINT32_MAX;
}

/* ---- options ---- */

static int check_encryption(const struct cow_header *h, const struct cow_create_options *o, struct cow_error *err)
{
	if (!o->secret || !o->secret->bytes)
		return cow_error_set(err, -EINVAL, "encryption: no passphrase, or an empty one: name its source (--key-file, ...)");
	/* Preallocated clusters read as deciphered zeros, which is noise, unless their zero flag is set. */
	if (h->version == 2 && o->preallocation != COW_PREALLOC_OFF)
		return cow_error_set(err, -EINVAL, "preallocation: with encryption it needs compat=1.1");
	return cow_luks_format_check(o->encrypt, err);
}

static int load_options(struct cow_header *h, const struct cow_create_options *o, struct cow_error *err)
{
	uint32_t cluster_bytes = o->cluster_bytes ? o->cluster_bytes : 65536;
	uint32_t refcount_bits = o->refcount_bits ? o->refcount_bits : 16;
	h->version = o->version ? o->version : 3;
	h->cluster_bits = log2_exact(cluster_bytes);
	h->refcount_order = log2_exact(refcount_bits);
	if (h->version != 2 && h->version != 3)
		return cow_error_set(err, -EINVAL, "version %" PRIu32 ": must be 2 (compat=0.10) or 3 (compat=1.1)",
				     h->version);
	if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS || h->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return cow_error_set(err, -EINVAL, "cluster size %" PRIu32 ": must be a power of two from 512 to 2M",
				     cluster_bytes);
	if (h->refcount_order > QCOW2_MAX_REFCOUNT_ORDER)
		return cow_error_set(err, -EINVAL, "refcount bits %" PRIu32 ": must be a power of two up to 64",
				     refcount_bits);
	if (h->version == 2 && (h->refcount_order != 4 || o->lazy_refcounts))
		return cow_error_set(err, -EINVAL, "%s: needs compat=1.1",
				     o->lazy_refcounts ? "lazy refcounts" : "refcount bits other than 16");
	if (o->backing_file && o->preallocation != COW_PREALLOC_OFF)
		return cow_error_set(err, -EINVAL, "preallocation: would hide the backing file: use one of the two");
	if (o->encrypt) {
		int ret = check_encryption(h, o, err);
		if (ret)
			return ret;
		h->crypt_method = QCOW2_CRYPT_LUKS;
	}
	if (o->lazy_refcounts)
		h->compatible |= QCOW2_COMPAT_LAZY_REFCOUNTS;
	h->header_bytes = h->version == 2 ? QCOW2_V2_HEADER_LENGTH : sizeof(struct qcow2_header_be);
	return 0;
}

/* ---- places ---- */

/* The refcount structures count themselves: grow them until they cover everything. */
static void size_refcounts(struct cow_create_layout *l, uint64_t others)
{
	struct cow_header *h = &l->header;
	uint64_t refs_per_block = (uint64_t)cow_cluster_bytes(h) * 8 >> h->refcount_order;
	uint64_t table = 1, blocks = 1;
	for (;;) {
		uint64_t total = others + table + blocks;
		uint64_t need_blocks = div_up(total, refs_per_block);
		uint64_t need_table = div_up(need_blocks * 8, cow_cluster_bytes(h));
		if (need_blocks <= blocks && need_table <= table)
			break;
		blocks = need_blocks > blocks ? need_blocks : blocks;
		table = need_table > table ? need_table : table;
	}
	l->nr_refblocks = blocks;
	l->nr_clusters = others + table + blocks;
	/* A table over the limit is refused by the caller; here it must only not be cut to 32 bits. */
	h->reftable_clusters = table > UINT32_MAX ? UINT32_MAX : (uint32_t)table;
}

static void place(struct cow_create_layout *l, uint64_t l1_clusters)
{
	struct cow_header *h = &l->header;
	uint64_t at = 1;
	h->reftable_off = at << h->cluster_bits;
	at += h->reftable_clusters;
	l->refblocks_off = at << h->cluster_bits;
	at += l->nr_refblocks;
	h->l1_off = at << h->cluster_bits;
	at += l1_clusters;
	l->l2_off = at << h->cluster_bits;
	at += l->nr_l2_tables;
	l->crypto_off = at << h->cluster_bits;
	at += div_up(l->crypto_bytes, cow_cluster_bytes(h));
	l->data_off = at << h->cluster_bits;
}

int cow_create_layout_init(struct cow_create_layout *l, const struct cow_create_options *options,
			   uint64_t size_bytes, struct cow_error *err)
{
	struct cow_header *h = &l->header;
	memset(l, 0, sizeof(*l));
	int ret = load_options(h, options, err);
	if (ret)
		return ret;
	h->size_bytes = size_bytes;
	uint64_t l1_entries = cow_l1_entries_for(h, size_bytes);
	if (size_bytes > INT64_MAX || l1_entries > QCOW2_MAX_L1_BYTES / 8)
		return cow_error_set(err, -EFBIG, "size %" PRIu64 ": clusters of %" PRIu32 " bytes reach %" PRIu64
				     " bytes at most: use larger clusters", size_bytes, cow_cluster_bytes(h),
				     (uint64_t)cow_cluster_bytes(h) * cow_l2_entries(h) * (QCOW2_MAX_L1_BYTES / 8));
	h->l1_entries = (uint32_t)l1_entries;
	l->l1_bytes = l1_entries * 8;
	if (options->preallocation != COW_PREALLOC_OFF) {
		l->nr_data_clusters = div_up(size_bytes, cow_cluster_bytes(h));
		l->nr_l2_tables = l1_entries;
	}
	uint64_t l1_clusters = div_up(l->l1_bytes, cow_cluster_bytes(h));
	l->crypto_bytes = options->encrypt ? cow_luks_format_bytes(options->encrypt) : 0;
	size_refcounts(l, 1 + l1_clusters + l->nr_l2_tables + div_up(l->crypto_bytes, cow_cluster_bytes(h)) +
			  l->nr_data_clusters);
	if (h->reftable_clusters > QCOW2_MAX_REFTABLE_BYTES >> h->cluster_bits)
		return cow_error_set(err, -EFBIG, "size %" PRIu64 ": too large to be preallocated: use larger clusters",
				     size_bytes);
	place(l, l1_clusters);
	return 0;
}

/* ---- the first cluster ---- */

/* What older programs print when they meet a feature they do not know. */
static const struct {
	uint8_t type, bit;
	const char *name;
} feature_names[] = {
	{0, 0, "dirty bit"},
	{0, 1, "corrupt bit"},
	{0, 2, "external data file"},
	{0, 3, "compression type"},
	{0, 4, "extended L2 entries"},
	{1, 0, "lazy refcounts"},
	{2, 0, "bitmaps"},
	{2, 1, "raw external data"},
};

#define NR_FEATURES (sizeof(feature_names) / sizeof(feature_names[0]))
#define FEATURE_BYTES 48u
#define FEATURES_BYTES (NR_FEATURES * FEATURE_BYTES)

/* Returns the offset behind the extension. */
static size_t put_extension(uint8_t *cluster, size_t off, uint32_t type, const void *data, size_t bytes)
{
	cow_store32_be(cluster + off, type);
	cow_store32_be(cluster + off + 4, (uint32_t)bytes);
	if (bytes)
		memcpy(cluster + off + 8, data, bytes);
	return off + 8 + ((bytes + 7) & ~(size_t)7);
}

static size_t put_feature_names(uint8_t *cluster, size_t off)
{
	uint8_t table[FEATURES_BYTES] = {0};
	for (size_t i = 0; i < NR_FEATURES; i++) {
		table[i * FEATURE_BYTES] = feature_names[i].type;
		table[i * FEATURE_BYTES + 1] = feature_names[i].bit;
		memcpy(table + i * FEATURE_BYTES + 2, feature_names[i].name, strlen(feature_names[i].name));
	}
	return put_extension(cluster, off, QCOW2_EXT_FEATURE_NAMES, table, sizeof(table));
}

#define CRYPTO_BYTES 16u

static size_t put_crypto(const struct cow_create_layout *l, uint8_t *cluster, size_t off)
{
	uint8_t place[CRYPTO_BYTES];
	cow_store64_be(place, l->crypto_off);
	cow_store64_be(place + 8, l->crypto_bytes);
	return put_extension(cluster, off, QCOW2_EXT_CRYPTO, place, sizeof(place));
}

int cow_create_first_cluster(struct cow_create_layout *l, const struct cow_create_options *options,
			     uint8_t *cluster, struct cow_error *err)
{
	struct cow_header *h = &l->header;
	const char *format = options->backing_file ? options->backing_format : NULL;
	size_t name_bytes = options->backing_file ? strlen(options->backing_file) : 0;
	size_t format_bytes = format ? 8 + ((strlen(format) + 7) & ~(size_t)7) : 0;
	size_t crypto_bytes = l->crypto_bytes ? 8 + CRYPTO_BYTES : 0;
	size_t need = h->header_bytes + format_bytes + crypto_bytes + 8 + name_bytes;
	if (name_bytes > QCOW2_MAX_BACKING_NAME_BYTES || need > cow_cluster_bytes(h))
		return cow_error_set(err, -ENAMETOOLONG, "backing file name: %zu bytes do not fit into the first cluster "
				     "(1023 at most): use a shorter name or larger clusters", name_bytes);
	size_t off = h->header_bytes;
	if (format)
		off = put_extension(cluster, off, QCOW2_EXT_BACKING_FORMAT, format, strlen(format));
	if (crypto_bytes)
		off = put_crypto(l, cluster, off);
	if (h->version >= 3 && need + 8 + FEATURES_BYTES <= cow_cluster_bytes(h))
		off = put_feature_names(cluster, off);
	off = put_extension(cluster, off, QCOW2_EXT_END, NULL, 0);
	if (name_bytes) {
		memcpy(cluster + off, options->backing_file, name_bytes);
		h->backing_name_off = off;
		h->backing_name_bytes = (uint32_t)name_bytes;
	}
	cow_header_encode(h, cluster, cow_cluster_bytes(h));
	return 0;
}
