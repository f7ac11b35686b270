/* SPDX-License-Identifier: MIT */
/*
 * The directory of persistent dirty bitmaps: pure decode and verify (QEMU docs/interop/qcow2,
 * "Bitmaps").
 *
 * offset  entry                      offset  entry
 *  0      u64 bitmap table offset     16      u8  type (1: dirty tracking)
 *  8      u32 table entries           17      u8  granularity bits
 * 12      u32 flags                   18      u16 name length
 *                                     20      u32 extra data length; then extra data, name, padding to 8
 */
#ifndef COW_BITMAP_DIRECTORY_H
#define COW_BITMAP_DIRECTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/format/format.h"

#define COW_BITMAP_IN_USE (1u << 0)
#define COW_BITMAP_AUTO (1u << 1)
#define COW_MAX_BITMAP_NAME_BYTES 1023u

/* Bitmap table entries: bits 9..55 an offset, or without one bit 0: all ones. */
#define COW_BITMAP_TABLE_OFFSET_MASK QCOW2_OFFSET_MASK
#define COW_BITMAP_TABLE_RESERVED 0xff000000000001feull
#define COW_BITMAP_TABLE_ALL_ONES (1ull << 0)

struct cow_bitmap {
	uint64_t table_off;
	uint32_t table_entries;
	uint32_t flags;
	uint8_t granularity_bits; /* 9..31 */
	char name[COW_MAX_BITMAP_NAME_BYTES + 1];
	uint64_t entry_off; /* of its entry in the directory; set by decoding */
};

#define COW_BITMAP_MIN_GRANULARITY_BITS 9u
#define COW_BITMAP_MAX_GRANULARITY_BITS 31u
#define COW_MAX_BITMAPS 65535u
#define COW_MAX_BITMAP_DIRECTORY_BYTES (1024ull * COW_MAX_BITMAPS)
#define COW_BITMAP_FLAGS_OFF                                                                       \
	12u /* in an entry; entries are 8-aligned, so a sector holds all of it */

/*
 * Decode the nr_bitmaps entries of dir (ext->bitmap_directory_bytes long). *out: an array of
 * nr_bitmaps, free() it.
 * -EINVAL with rule and offset.
 */
COW_MUST_CHECK int cow_bitmaps_decode(const uint8_t *dir, const struct cow_header *h,
				      const struct cow_extensions *ext, struct cow_bitmap **out,
				      struct cow_error *err);

/* Bytes that an encoded entry takes, padding included; and the encoding itself. */
uint64_t cow_bitmap_entry_bytes(const struct cow_bitmap *b);
void cow_bitmap_encode(const struct cow_bitmap *b, uint8_t *buf);
/* Which rule an entry of a bitmap table breaks; NULL: none. */
const char *cow_bitmap_table_fault(uint64_t entry, uint32_t cluster_bytes);
/* Bytes of data that the bitmap of a whole disk has. */
static inline uint64_t cow_bitmap_data_bytes(uint64_t size_bytes, unsigned granularity_bits)
{
	uint64_t bits = (size_bytes >> granularity_bits) +
			!!(size_bytes & ((1ull << granularity_bits) - 1));
	return bits / 8 + !!(bits % 8);
}

/* Entries of the table of a bitmap for the whole disk. */
uint64_t cow_bitmap_table_entries(const struct cow_header *h, unsigned granularity_bits);

#endif
