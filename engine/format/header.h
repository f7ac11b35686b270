/* SPDX-License-Identifier: MIT */
/* The header of an image: pure decode, encode and verify. See format.h. */
#ifndef COW_HEADER_H
#define COW_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "uapi/qcow2.h"

/*
 * The header in host byte order. Version 2 images get the values that version implies
 * (refcount_order 4, ...).
 */
struct cow_header {
	uint32_t version;
	uint64_t backing_name_off; /* 0: no backing file */
	uint32_t backing_name_bytes;
	uint32_t cluster_bits;
	uint64_t size_bytes;
	uint32_t crypt_method;
	uint32_t l1_entries;
	uint64_t l1_off;
	uint64_t reftable_off;
	uint32_t reftable_clusters;
	uint32_t nr_snapshots;
	uint64_t snapshots_off;
	uint64_t incompatible, compatible, autoclear;
	uint32_t refcount_order;
	uint32_t header_bytes; /* header_length: 72 for version 2 */
	uint8_t compression_type;
};

/* True if the first four bytes are qcow2's magic. */
bool cow_header_is_qcow2(const uint8_t *buf, size_t len);

/*
 * Decode and check every rule that needs the header only. len >= 112 (short files: zero-padded by
 * the caller, file_bytes tells).
 */
COW_MUST_CHECK int cow_header_decode(const uint8_t *buf, size_t len, struct cow_header *h,
				     struct cow_error *err);

/*
 * Rules that need the file's size: tables lie inside the file (regular file or block device of
 * file_bytes).
 */
COW_MUST_CHECK int cow_header_verify_file(const struct cow_header *h, uint64_t file_bytes,
					  struct cow_error *err);

/*
 * For check and repair, which can do without what they can rebuild: decode without the rules of the
 * refcount table and the snapshot table, then ask for each part whether it is usable.
 */
COW_MUST_CHECK int cow_header_decode_lenient(const uint8_t *buf, size_t len, struct cow_header *h,
					     struct cow_error *err);
COW_MUST_CHECK int cow_header_verify_l1_inside(const struct cow_header *h, uint64_t file_bytes,
					       struct cow_error *err);
bool cow_header_reftable_ok(const struct cow_header *h, uint64_t file_bytes, struct cow_error *err);
bool cow_header_snapshots_ok(const struct cow_header *h, uint64_t file_bytes,
			     struct cow_error *err);

/*
 * Fields -> the first 72, 104 or 112 bytes; bytes beyond sizeof(struct qcow2_header_be) of a longer
 * header are left alone.
 */
void cow_header_encode(const struct cow_header *h, uint8_t *buf, size_t len);

static inline uint32_t cow_cluster_bytes(const struct cow_header *h)
{
	return 1u << h->cluster_bits;
}

/* L2 entries per table. */
static inline uint32_t cow_l2_entries(const struct cow_header *h)
{
	return cow_cluster_bytes(h) / ((h->incompatible & QCOW2_INCOMPAT_EXTL2) ? 16 : 8);
}

/* Number of L1 entries that cover size_bytes. */
uint64_t cow_header_l1_entries(const struct cow_header *h, uint64_t size_bytes);

#endif
