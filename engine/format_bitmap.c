/* SPDX-License-Identifier: MIT */
#include "engine/format_bitmap.h"

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

static int load_entries(const uint8_t *dir, const struct cow_header *h, const struct cow_extensions *ext,
			struct cow_bitmap *list, struct cow_error *err)
{
	uint64_t off = 0, len = ext->bitmap_directory_bytes;
	for (uint32_t i = 0; i < ext->nr_bitmaps; i++) {
		const uint8_t *p = dir + off;
		uint64_t left = len - off;
		const char *rule = left < ENTRY_BYTES ? "runs past the end of the directory" : broken_rule(p, h);
		if (!rule && ENTRY_BYTES + (uint64_t)cow_load16_be(p + 18) > left)
			rule = "runs past the end of the directory";
		if (rule)
			return cow_error_set(err, -EINVAL, "bitmap directory entry %" PRIu32 " at offset %" PRIu64
					     ": %s", i, ext->bitmap_directory_off + off, rule);
		load_entry(p, &list[i]);
		uint64_t bytes = (ENTRY_BYTES + (uint64_t)cow_load16_be(p + 18) + 7) & ~7ull;
		off += bytes < left ? bytes : left;
	}
	return 0;
}

int cow_bitmaps_decode(const uint8_t *dir, const struct cow_header *h, const struct cow_extensions *ext,
		       struct cow_bitmap **out, struct cow_error *err)
{
	*out = NULL;
	/* Before the allocation: the directory must be able to hold that many. */
	if (ext->nr_bitmaps > ext->bitmap_directory_bytes / ENTRY_BYTES)
		return cow_error_set(err, -EINVAL, "bitmap directory at offset %" PRIu64 ": %" PRIu32
				     " bitmaps do not fit into %" PRIu64 " bytes", ext->bitmap_directory_off,
				     ext->nr_bitmaps, ext->bitmap_directory_bytes);
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
