/* SPDX-License-Identifier: MIT */
/*
 * The header's fields and the rules that need nothing but the header (and the file's length). One
 * function a rule, in the order in which later rules depend on earlier ones: nothing shifts by
 * cluster_bits before cluster_bits is checked.
 */
#include "engine/format/header.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/format/other.h"

/* Offset of a header field, for messages. */
#define AT(field) offsetof(struct qcow2_header_be, field)
#define LOAD32(field) cow_load32_be(buf + AT(field))
#define LOAD64(field) cow_load64_be(buf + AT(field))

typedef int header_rule(const struct cow_header *h, struct cow_error *err);

bool cow_header_is_qcow2(const uint8_t *buf, size_t len)
{
	return len >= 4 && cow_load32_be(buf) == QCOW2_MAGIC;
}

uint64_t cow_header_l1_entries(const struct cow_header *h, uint64_t size_bytes)
{
	uint64_t per_entry = (uint64_t)cow_cluster_bytes(h) * cow_l2_entries(h);
	return size_bytes / per_entry + (size_bytes % per_entry != 0);
}

/* ---- decode ---- */

static void load_version_2(const uint8_t *buf, struct cow_header *h)
{
	*h = (struct cow_header){
		.version = LOAD32(version),
		.backing_name_off = LOAD64(backing_file_offset),
		.backing_name_bytes = LOAD32(backing_file_size),
		.cluster_bits = LOAD32(cluster_bits),
		.size_bytes = LOAD64(size),
		.crypt_method = LOAD32(crypt_method),
		.l1_entries = LOAD32(l1_size),
		.l1_off = LOAD64(l1_table_offset),
		.reftable_off = LOAD64(refcount_table_offset),
		.reftable_clusters = LOAD32(refcount_table_clusters),
		.nr_snapshots = LOAD32(nb_snapshots),
		.snapshots_off = LOAD64(snapshots_offset),
		.refcount_order = 4,
		.header_bytes = QCOW2_V2_HEADER_LENGTH,
	};
}

static void load_version_3(const uint8_t *buf, struct cow_header *h)
{
	h->incompatible = LOAD64(incompatible_features);
	h->compatible = LOAD64(compatible_features);
	h->autoclear = LOAD64(autoclear_features);
	h->refcount_order = LOAD32(refcount_order);
	h->header_bytes = LOAD32(header_length);
	if (h->header_bytes > QCOW2_V3_HEADER_LENGTH)
		h->compression_type = buf[AT(compression_type)];
}

/* ---- rules ---- */

static int bad(struct cow_error *err, const char *field, size_t off, const char *why,
	       uint64_t value)
{
	return cow_error_set(err, -EINVAL, "%s at offset %zu: %" PRIu64 " (0x%" PRIx64 ") %s",
			     field, off, value, value, why);
}

#define BAD(field, why, value) bad(err, #field, AT(field), why, value)

static bool unaligned(const struct cow_header *h, uint64_t off)
{
	return off & (cow_cluster_bytes(h) - 1);
}

static int rule_cluster_bits(const struct cow_header *h, struct cow_error *err)
{
	if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS || h->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return BAD(cluster_bits, "is outside 9..21", h->cluster_bits);
	return 0;
}

static int rule_header_length(const struct cow_header *h, struct cow_error *err)
{
	if (h->version == 2)
		return 0;
	if (h->header_bytes < QCOW2_V3_HEADER_LENGTH)
		return BAD(header_length, "is less than 104", h->header_bytes);
	if (h->header_bytes % 8)
		return BAD(header_length, "is no multiple of 8", h->header_bytes);
	if (h->header_bytes > cow_cluster_bytes(h))
		return BAD(header_length, "is larger than a cluster", h->header_bytes);
	return 0;
}

static int rule_backing_name(const struct cow_header *h, struct cow_error *err)
{
	uint64_t off = h->backing_name_off, bytes = h->backing_name_bytes;
	if (!off)
		return bytes ? BAD(backing_file_size, "is set but there is no backing file name",
				   bytes)
			     : 0;
	if (bytes > QCOW2_MAX_BACKING_NAME_BYTES)
		return BAD(backing_file_size, "is more than 1023 bytes", bytes);
	if (off < h->header_bytes)
		return BAD(backing_file_offset, "lies inside the header", off);
	if (off > cow_cluster_bytes(h) || bytes > cow_cluster_bytes(h) - off)
		return BAD(backing_file_offset, "puts the name outside the first cluster", off);
	return 0;
}

static int rule_extended_l2(const struct cow_header *h, struct cow_error *err)
{
	if ((h->incompatible & QCOW2_INCOMPAT_EXTL2) && h->cluster_bits < 14)
		return BAD(cluster_bits, "is less than 14, which extended L2 entries need",
			   h->cluster_bits);
	return 0;
}

static int rule_compression_type(const struct cow_header *h, struct cow_error *err)
{
	bool bit = h->incompatible & QCOW2_INCOMPAT_COMPRESSION;
	if (h->compression_type > QCOW2_COMPRESSION_ZSTD)
		return cow_error_set(err, -ENOTSUP,
				     "compression_type at offset %zu: type %u is unknown",
				     AT(compression_type), h->compression_type);
	if (bit != (h->compression_type != QCOW2_COMPRESSION_ZLIB))
		return BAD(compression_type,
			   bit ? "contradicts incompatible feature bit 3, which is set"
			       : "needs incompatible feature bit 3, which is not set",
			   h->compression_type);
	return 0;
}

static int rule_size(const struct cow_header *h, struct cow_error *err)
{
	if (h->size_bytes % 512)
		return BAD(size, "is no multiple of 512: round it up with qemu-img resize",
			   h->size_bytes);
	if (h->size_bytes > INT64_MAX)
		return BAD(size, "is more than 2^63-1 bytes", h->size_bytes);
	return 0;
}

static int rule_crypt_method(const struct cow_header *h, struct cow_error *err)
{
	if (h->crypt_method > QCOW2_CRYPT_LUKS)
		return cow_error_set(err, -ENOTSUP,
				     "crypt_method at offset %zu: method %" PRIu32 " is unknown",
				     AT(crypt_method), h->crypt_method);
	return 0;
}

static int rule_refcount_order(const struct cow_header *h, struct cow_error *err)
{
	if (h->refcount_order > QCOW2_MAX_REFCOUNT_ORDER)
		return BAD(refcount_order, "is more than 6 (64 bits)", h->refcount_order);
	return 0;
}

static int rule_l1(const struct cow_header *h, struct cow_error *err)
{
	if (h->l1_entries > QCOW2_MAX_L1_BYTES / 8)
		return BAD(l1_size, "entries are more than 32 MiB", h->l1_entries);
	if (cow_header_l1_entries(h, h->size_bytes) > h->l1_entries)
		return BAD(l1_size, "entries do not cover the image's size", h->l1_entries);
	if (unaligned(h, h->l1_off))
		return BAD(l1_table_offset, "is not cluster-aligned", h->l1_off);
	if (h->l1_entries && !h->l1_off)
		return BAD(l1_table_offset, "puts the L1 table over the header", h->l1_off);
	return 0;
}

static int rule_reftable(const struct cow_header *h, struct cow_error *err)
{
	if (!h->reftable_clusters)
		return BAD(refcount_table_clusters, "means no refcount table", 0);
	if (h->reftable_clusters > QCOW2_MAX_REFTABLE_BYTES >> h->cluster_bits)
		return BAD(refcount_table_clusters, "clusters are more than 8 MiB",
			   h->reftable_clusters);
	if (unaligned(h, h->reftable_off))
		return BAD(refcount_table_offset, "is not cluster-aligned", h->reftable_off);
	if (!h->reftable_off)
		return BAD(refcount_table_offset, "puts the refcount table over the header", 0);
	return 0;
}

static int rule_snapshots(const struct cow_header *h, struct cow_error *err)
{
	if (h->nr_snapshots > QCOW2_MAX_SNAPSHOTS)
		return BAD(nb_snapshots, "is more than 65536", h->nr_snapshots);
	if (unaligned(h, h->snapshots_off))
		return BAD(snapshots_offset, "is not cluster-aligned", h->snapshots_off);
	if (h->nr_snapshots && !h->snapshots_off)
		return BAD(snapshots_offset, "puts the snapshot table over the header", 0);
	return 0;
}

/* ---- unknown incompatible features, by the name that the image gives them ---- */

#define FEATURE_ENTRY_BYTES 48u

static void copy_printable(char *out, size_t out_bytes, const uint8_t *in, size_t in_bytes)
{
	size_t n = 0;
	while (n < in_bytes && n + 1 < out_bytes && in[n]) {
		out[n] = in[n] >= 0x20 && in[n] < 0x7f ? (char)in[n] : '?';
		n++;
	}
	out[n] = '\0';
}

static bool find_in_names(const uint8_t *table, uint32_t bytes, unsigned bit,
			  char name[FEATURE_ENTRY_BYTES])
{
	for (uint32_t i = 0; i + FEATURE_ENTRY_BYTES <= bytes; i += FEATURE_ENTRY_BYTES) {
		if (table[i] == 0 && table[i + 1] == bit) {
			copy_printable(name, FEATURE_ENTRY_BYTES, table + i + 2,
				       FEATURE_ENTRY_BYTES - 2);
			return name[0] != '\0';
		}
	}
	return false;
}

/* Lenient on purpose: it only looks for a name to put in a message. */
static bool feature_name(const uint8_t *buf, size_t len, const struct cow_header *h, unsigned bit,
			 char name[FEATURE_ENTRY_BYTES])
{
	size_t off = h->header_bytes;
	while (off < len && len - off >= 8) {
		uint32_t type = cow_load32_be(buf + off), bytes = cow_load32_be(buf + off + 4);
		off += 8;
		if (type == QCOW2_EXT_END || bytes > len - off)
			return false;
		if (type == QCOW2_EXT_FEATURE_NAMES)
			return find_in_names(buf + off, bytes, bit, name);
		off += ((size_t)bytes + 7) & ~(size_t)7;
	}
	return false;
}

static int rule_incompatible(const uint8_t *buf, size_t len, const struct cow_header *h,
			     struct cow_error *err)
{
	uint64_t unknown = h->incompatible & ~QCOW2_INCOMPAT_MASK;
	if (!unknown)
		return 0;
	unsigned bit = (unsigned)__builtin_ctzll(unknown);
	char name[FEATURE_ENTRY_BYTES] = "unknown feature";
	feature_name(buf, len, h, bit, name);
	return cow_error_set(err, -ENOTSUP,
			     "incompatible_features at offset %zu: bit %u (%s) is not supported",
			     AT(incompatible_features), bit, name);
}

/* ---- entry points ---- */

static int run_rules(header_rule *const *rules, const struct cow_header *h, struct cow_error *err)
{
	int ret = 0;
	for (; *rules && !ret; rules++)
		ret = (*rules)(h, err);
	return ret;
}

static int load_header(const uint8_t *buf, size_t len, struct cow_header *h, struct cow_error *err)
{
	cow_assert(len >= sizeof(struct qcow2_header_be));
	if (!cow_header_is_qcow2(buf, len))
		return cow_format_refuse_other(buf, len, -EINVAL, err);
	load_version_2(buf, h);
	if (h->version < 2 || h->version > 3)
		return cow_error_set(
			err, -ENOTSUP,
			"version at offset 4: qcow2 version %" PRIu32 " is unknown%s", h->version,
			h->version == 1 ? ": convert it with `qemu-img convert -O qcow2`" : "");
	if (h->version == 3)
		load_version_3(buf, h);
	return 0;
}

int cow_header_decode_lenient(const uint8_t *buf, size_t len, struct cow_header *h,
			      struct cow_error *err)
{
	static header_rule *const shape[] = { rule_cluster_bits, rule_header_length, NULL };
	static header_rule *const content[] = {
		rule_compression_type,
		rule_extended_l2,
		rule_backing_name,
		rule_crypt_method,
		rule_size,
		rule_refcount_order,
		rule_l1,
		NULL,
	};
	int ret = load_header(buf, len, h, err);
	if (!ret)
		ret = run_rules(shape, h, err);
	if (!ret)
		ret = rule_incompatible(buf, len, h, err);
	if (!ret)
		ret = run_rules(content, h, err);
	return ret;
}

int cow_header_decode(const uint8_t *buf, size_t len, struct cow_header *h, struct cow_error *err)
{
	static header_rule *const repairable[] = { rule_reftable, rule_snapshots, NULL };
	int ret = cow_header_decode_lenient(buf, len, h, err);
	return ret ? ret : run_rules(repairable, h, err);
}

bool cow_header_reftable_ok(const struct cow_header *h, uint64_t file_bytes, struct cow_error *err)
{
	if (rule_reftable(h, err))
		return false;
	uint64_t end = h->reftable_off + ((uint64_t)h->reftable_clusters << h->cluster_bits);
	uint64_t file_end = (file_bytes + cow_cluster_bytes(h) - 1) >> h->cluster_bits
									       << h->cluster_bits;
	if (h->reftable_off >= file_bytes || end > file_end) {
		BAD(refcount_table_offset, "puts the refcount table past the end of the file",
		    h->reftable_off);
		return false;
	}
	return true;
}

bool cow_header_snapshots_ok(const struct cow_header *h, uint64_t file_bytes, struct cow_error *err)
{
	if (rule_snapshots(h, err))
		return false;
	if (h->nr_snapshots && h->snapshots_off >= file_bytes) {
		BAD(snapshots_offset, "puts the snapshot table past the end of the file",
		    h->snapshots_off);
		return false;
	}
	return true;
}

/* The host file may end inside the last cluster of a table, not before its last entry. */
int cow_header_verify_l1_inside(const struct cow_header *h, uint64_t file_bytes,
				struct cow_error *err)
{
	uint64_t bytes = (uint64_t)h->l1_entries * 8;
	if (bytes && (h->l1_off > file_bytes || bytes > file_bytes - h->l1_off))
		return BAD(l1_table_offset, "puts the L1 table past the end of the file",
			   h->l1_off);
	return 0;
}

static int verify_apart(const struct cow_header *h, struct cow_error *err)
{
	uint64_t mask = cow_cluster_bytes(h) - 1;
	uint64_t l1_end = h->l1_off + (((uint64_t)h->l1_entries * 8 + mask) & ~mask);
	uint64_t reftable_end =
		h->reftable_off + ((uint64_t)h->reftable_clusters << h->cluster_bits);
	if (h->l1_entries && h->l1_off < reftable_end && h->reftable_off < l1_end)
		return BAD(l1_table_offset, "makes the L1 table overlap the refcount table",
			   h->l1_off);
	uint64_t snapshots = h->snapshots_off;
	if (!h->nr_snapshots)
		return 0;
	if (snapshots >= h->l1_off && snapshots < l1_end)
		return BAD(snapshots_offset, "puts the snapshot table over the L1 table",
			   snapshots);
	if (snapshots >= h->reftable_off && snapshots < reftable_end)
		return BAD(snapshots_offset, "puts the snapshot table over the refcount table",
			   snapshots);
	return 0;
}

int cow_header_verify_file(const struct cow_header *h, uint64_t file_bytes, struct cow_error *err)
{
	int ret = cow_header_verify_l1_inside(h, file_bytes, err);
	if (ret)
		return ret;
	if (!cow_header_reftable_ok(h, file_bytes, err) ||
	    !cow_header_snapshots_ok(h, file_bytes, err))
		return -EINVAL;
	return verify_apart(h, err);
}

/* ---- encode ---- */

#define STORE32(field, value) cow_store32_be(buf + AT(field), value)
#define STORE64(field, value) cow_store64_be(buf + AT(field), value)

static void store_version_2(const struct cow_header *h, uint8_t *buf)
{
	STORE32(magic, QCOW2_MAGIC);
	STORE32(version, h->version);
	STORE64(backing_file_offset, h->backing_name_off);
	STORE32(backing_file_size, h->backing_name_bytes);
	STORE32(cluster_bits, h->cluster_bits);
	STORE64(size, h->size_bytes);
	STORE32(crypt_method, h->crypt_method);
	STORE32(l1_size, h->l1_entries);
	STORE64(l1_table_offset, h->l1_off);
	STORE64(refcount_table_offset, h->reftable_off);
	STORE32(refcount_table_clusters, h->reftable_clusters);
	STORE32(nb_snapshots, h->nr_snapshots);
	STORE64(snapshots_offset, h->snapshots_off);
}

static void store_version_3(const struct cow_header *h, uint8_t *buf)
{
	STORE64(incompatible_features, h->incompatible);
	STORE64(compatible_features, h->compatible);
	STORE64(autoclear_features, h->autoclear);
	STORE32(refcount_order, h->refcount_order);
	STORE32(header_length, h->header_bytes);
}

void cow_header_encode(const struct cow_header *h, uint8_t *buf, size_t len)
{
	cow_assert(len >= QCOW2_V2_HEADER_LENGTH);
	store_version_2(h, buf);
	if (h->version == 2)
		return;
	cow_assert(len >= h->header_bytes || len >= sizeof(struct qcow2_header_be));
	store_version_3(h, buf);
	if (h->header_bytes >= sizeof(struct qcow2_header_be)) {
		buf[AT(compression_type)] = h->compression_type;
		memset(buf + AT(padding), 0, sizeof(((struct qcow2_header_be *)0)->padding));
	}
}
