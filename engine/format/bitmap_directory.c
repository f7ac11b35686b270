/* SPDX-License-Identifier: MIT */
/* See bitmap_directory.h. In this order: encoding; tables. */
#include "engine/format/bitmap_directory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/be.h"

#define ENTRY_BYTES 24u
#define TYPE_DIRTY_TRACKING 1
#define MAX_DATA_BYTES (512ull << 20) /* of one bitmap, as in QEMU */
#define KNOWN_FLAGS (COW_BITMAP_IN_USE | COW_BITMAP_AUTO)

/* The first rule that the fixed part of an entry breaks; NULL: none. */
static const char *broken_rule(const uint8_t *p, const struct cow_header *h)
{
	uint64_t table_off = cow_load64_be(p);
	uint32_t table_entries = cow_load32_be(p + 8);
	uint16_t name_bytes = cow_load16_be(p + 18);
	if (!table_off || table_off & (cow_cluster_bytes(h) - 1) || table_off > INT64_MAX)
		return "its table is not cluster-aligned";
	if (!table_entries || table_entries > MAX_DATA_BYTES >> h->cluster_bits)
		return "its table is empty or maps more than 512 MiB";
	if (cow_load32_be(p + 12) & ~KNOWN_FLAGS)
		return "unknown flags";
	if (p[16] != TYPE_DIRTY_TRACKING)
		return "unknown type";
	if (p[17] < 9 || p[17] > 31)
		return "granularity is outside 2^9..2^31";
	if (!name_bytes || name_bytes > COW_MAX_BITMAP_NAME_BYTES)
		return "its name is empty or longer than 1023 bytes";
	if (cow_load32_be(p + 20))
		return "unknown extra data";
	return NULL;
}

static void load_entry(const uint8_t *p, struct cow_bitmap *b)
{
	uint16_t name_bytes = cow_load16_be(p + 18);
	b->table_off = cow_load64_be(p);
	b->table_entries = cow_load32_be(p + 8);
	b->flags = cow_load32_be(p + 12);
	b->granularity_bits = p[17];
	memcpy(b->name, p + ENTRY_BYTES, name_bytes);
	b->name[name_bytes] = '\0';
}

static int load_entries(const uint8_t *dir, const struct cow_header *h,
			const struct cow_extensions *ext, struct cow_bitmap *list,
			struct cow_error *err)
{
	uint64_t off = 0, len = ext->bitmap_directory_bytes;
	for (uint32_t i = 0; i < ext->nr_bitmaps; i++) {
		const uint8_t *p = dir + off;
		uint64_t left = len - off;
		const char *rule = left < ENTRY_BYTES ? "runs past the end of the directory"
						      : broken_rule(p, h);
		if (!rule && ENTRY_BYTES + (uint64_t)cow_load16_be(p + 18) > left)
			rule = "runs past the end of the directory";
		if (!rule && memchr(p + ENTRY_BYTES, 0, cow_load16_be(p + 18)))
			rule = "its name holds a NUL byte";
		if (rule)
			return cow_error_set(err, -EINVAL,
					     "bitmap directory entry %" PRIu32 " at offset %" PRIu64
					     ": %s",
					     i, ext->bitmap_directory_off + off, rule);
		load_entry(p, &list[i]);
		list[i].entry_off = off;
		uint64_t bytes = (ENTRY_BYTES + (uint64_t)cow_load16_be(p + 18) + 7) & ~7ull;
		off += bytes < left ? bytes : left;
	}
	return 0;
}

int cow_bitmaps_decode(const uint8_t *dir, const struct cow_header *h,
		       const struct cow_extensions *ext, struct cow_bitmap **out,
		       struct cow_error *err)
{
	*out = NULL;
	/* Before the allocation: the directory must be able to hold that many. */
	if (ext->nr_bitmaps > ext->bitmap_directory_bytes / ENTRY_BYTES)
		return cow_error_set(err, -EINVAL,
				     "bitmap directory at offset %" PRIu64 ": %" PRIu32
				     " bitmaps do not fit into %" PRIu64 " bytes",
				     ext->bitmap_directory_off, ext->nr_bitmaps,
				     ext->bitmap_directory_bytes);
	struct cow_bitmap *list = calloc(ext->nr_bitmaps ? ext->nr_bitmaps : 1, sizeof(*list));
	if (!list)
		return cow_error_set(err, -ENOMEM, "bitmap directory: out of memory");
	int ret = load_entries(dir, h, ext, list, err);
	if (ret)
		free(list);
	else
		*out = list;
	return ret;
}

/* ---- encoding ---- */

uint64_t cow_bitmap_entry_bytes(const struct cow_bitmap *b)
{
	return (ENTRY_BYTES + strlen(b->name) + 7) & ~7ull;
}

void cow_bitmap_encode(const struct cow_bitmap *b, uint8_t *buf)
{
	size_t name_bytes = strlen(b->name);
	memset(buf, 0, cow_bitmap_entry_bytes(b));
	cow_store64_be(buf, b->table_off);
	cow_store32_be(buf + 8, b->table_entries);
	cow_store32_be(buf + COW_BITMAP_FLAGS_OFF, b->flags);
	buf[16] = TYPE_DIRTY_TRACKING;
	buf[17] = b->granularity_bits;
	cow_store16_be(buf + 18, (uint16_t)name_bytes);
	memcpy(buf + ENTRY_BYTES, b->name, name_bytes);
}

/* ---- tables ---- */

const char *cow_bitmap_table_fault(uint64_t entry, uint32_t cluster_bytes)
{
	uint64_t off = entry & COW_BITMAP_TABLE_OFFSET_MASK;
	if (off & (cluster_bytes - 1))
		return "is not cluster-aligned";
	if ((entry & COW_BITMAP_TABLE_RESERVED) || (off && (entry & COW_BITMAP_TABLE_ALL_ONES)))
		return "has reserved bits set";
	return NULL;
}

uint64_t cow_bitmap_table_entries(const struct cow_header *h, unsigned granularity_bits)
{
	uint64_t bytes = cow_bitmap_data_bytes(h->size_bytes, granularity_bits);
	return (bytes >> h->cluster_bits) + !!(bytes & (cow_cluster_bytes(h) - 1));
}
