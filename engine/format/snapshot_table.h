/* SPDX-License-Identifier: MIT */
/* The snapshot table: pure decode, encode and verify. See format.h. */
#ifndef COW_SNAPSHOT_TABLE_H
#define COW_SNAPSHOT_TABLE_H

#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/format/header.h"

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
