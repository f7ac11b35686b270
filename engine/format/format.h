/* SPDX-License-Identifier: MIT */
/*
 * qcow2 header, extensions and snapshot table: pure decode, encode and verify. No I/O, no policy,
 * no state. Rules: FORMAT.md sections 1 and 2; specification: QEMU docs/interop/qcow2.
 *
 * Verifiers say which rule failed and where: text "RULE at offset N: ..." in err, code -EINVAL, or
 * -ENOTSUP for what is valid but unknown (an incompatible bit: named from the image's feature name
 * table where it has one).
 */
#ifndef COW_FORMAT_H
#define COW_FORMAT_H

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

/* True if the first four bytes are qcow2's magic. */
bool cow_header_is_qcow2(const uint8_t *buf, size_t len);

/*
 * Without that magic: err says what the file looks like and what to do. Returns code. len >= 512.
 * format_other.c
 */
COW_MUST_CHECK int cow_header_refuse_other(const uint8_t *buf, size_t len, int code,
					   struct cow_error *err);

/*
 * What image a file is that begins like this, "a qcow2 image" for one; NULL: no image that is known,
 * so a raw disk, say.
 */
const char *cow_format_recognise(const uint8_t *buf, size_t len);

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

/* cluster: the whole first cluster (cluster_bytes, zero-padded). */
COW_MUST_CHECK int cow_extensions_decode(const uint8_t *cluster, const struct cow_header *h,
					 struct cow_extensions *ext, struct cow_error *err);

/* An extension at off of the first cluster; returns the offset behind it. */
size_t cow_extension_put(uint8_t *cluster, size_t off, uint32_t type, const void *data,
			 size_t bytes);

/* Copy the backing file's name, NUL-terminated, into name[1024]. "" if none. */
COW_MUST_CHECK int cow_backing_name(const uint8_t *cluster, const struct cow_header *h,
				    char name[1024], struct cow_error *err);

/* ---- derived ---- */

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
uint64_t cow_l1_entries_for(const struct cow_header *h, uint64_t size_bytes);

/* ---- refcount entries: width 1 << order bits ---- */

uint64_t cow_refcount_get(const void *block, uint32_t order, uint64_t idx);
void cow_refcount_set(void *block, uint32_t order, uint64_t idx, uint64_t value);
uint64_t cow_refcount_max(uint32_t order);
/* The first index from idx on, below end, whose count is 0; end: there is none. */
uint64_t cow_refcount_find_zero(const void *block, uint32_t order, uint64_t idx, uint64_t end);

/* ---- compressed L2 entries ---- */

struct cow_compressed {
	uint64_t off;	/* byte offset of the data in the host file */
	uint32_t bytes; /* upper bound of its length */
};
struct cow_compressed cow_compressed_decode(uint64_t entry, uint32_t cluster_bits);
uint64_t cow_compressed_encode(uint64_t off, uint32_t bytes, uint32_t cluster_bits);

/* ---- snapshot table ---- */

#define COW_SNAPSHOT_SIZES_BYTES 16u /* of its extra data: VM state size, disk size */

struct cow_snapshot {
	uint64_t l1_off;
	uint32_t l1_entries;
	uint32_t date_sec, date_nsec;
	uint64_t vm_clock_nsec;
	uint64_t vm_state_bytes;
	uint64_t disk_bytes; /* the virtual size then; the image's own for old entries without it */
	uint64_t icount;     /* UINT64_MAX: unknown */
	uint32_t extra_bytes;
	uint8_t extra[QCOW2_MAX_SNAPSHOT_EXTRA_BYTES]; /* verbatim, kept on rewrite */
	char *id, *name;			       /* NUL-terminated, owned */
	uint64_t entry_off;			       /* offset of the entry in the table, bytes */
};

/*
 * Decode nr entries from table[len]. On success *out is an array of nr (free with
 * cow_snapshots_free) and *used_bytes the table's length. -EINVAL with rule and offset (relative to
 * table_off, the table's place in the file).
 */
COW_MUST_CHECK int cow_snapshots_decode(const uint8_t *table, uint64_t len, uint64_t table_off,
					const struct cow_header *h, struct cow_snapshot **out,
					uint64_t *used_bytes, struct cow_error *err);
void cow_snapshots_free(struct cow_snapshot *snapshots, uint32_t nr);
/* Rules for a snapshot's L1 table, to be checked before it is read. */
COW_MUST_CHECK int cow_snapshot_verify_l1(const struct cow_snapshot *s, const struct cow_header *h,
					  uint64_t file_bytes, struct cow_error *err);
/* Bytes one encoded entry takes, padding included; and the encoding itself. */
uint64_t cow_snapshot_bytes(const struct cow_snapshot *s);
void cow_snapshot_encode(const struct cow_snapshot *s, uint8_t *buf);

#endif
