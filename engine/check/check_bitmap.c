/* SPDX-License-Identifier: MIT */
/* References from the bitmap directory: the bitmaps' tables and their data. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "engine/base/be.h"
#include "engine/check/check_bitmap.h"
#include "engine/check/checker.h"

static int mark_entry(struct cow_checker *c, const struct cow_bitmap *b, uint32_t idx,
		      uint64_t entry)
{
	uint64_t off = entry & COW_BITMAP_TABLE_OFFSET_MASK;
	bool misplaced = off & (cow_cluster_bytes(&c->header) - 1);
	if ((entry & COW_BITMAP_TABLE_RESERVED) || misplaced ||
	    (off && (entry & COW_BITMAP_TABLE_ALL_ONES))) {
		cow_checker_corrupt(
			c, "ERROR bitmap '%s' table entry %" PRIu32 ": 0x%" PRIx64 " %s", b->name,
			idx, entry, misplaced ? "is not cluster-aligned" : "has reserved bits set");
		if (misplaced)
			c->incomplete = true;
		return 0;
	}
	return off ? cow_checker_mark(c, off, cow_cluster_bytes(&c->header), COW_KIND_BITMAP_DATA,
				      1, NULL)
		   : 0;
}

static int walk_table(struct cow_checker *c, const struct cow_bitmap *b)
{
	uint32_t per_cluster = cow_cluster_bytes(&c->header) / 8;
	for (uint32_t idx = 0; idx < b->table_entries;) {
		uint32_t n =
			b->table_entries - idx < per_cluster ? b->table_entries - idx : per_cluster;
		int ret = cow_checker_read(c, b->table_off + (uint64_t)idx * 8, c->cluster,
					   (uint64_t)n * 8);
		for (uint32_t i = 0; i < n && !ret; i++)
			ret = mark_entry(c, b, idx + i, cow_load64_be(c->cluster + (size_t)i * 8));
		if (ret)
			return ret;
		idx += n;
	}
	return 0;
}

static int mark_bitmap(struct cow_checker *c, const struct cow_bitmap *b)
{
	bool usable;
	int ret = cow_checker_mark(c, b->table_off, (uint64_t)b->table_entries * 8,
				   COW_KIND_BITMAP_TABLE, 1, &usable);
	if (ret)
		return ret;
	if (!usable) {
		c->incomplete = true;
		return 0;
	}
	return walk_table(c, b);
}

int cow_check_mark_bitmaps(struct cow_checker *c)
{
	struct cow_bitmap *list;
	struct cow_error err = { 0 };
	if (!c->ext.has_bitmaps)
		return 0;
	int ret = cow_load_bitmaps(c->loop, c->file, &c->header, &c->ext, &list, &err);
	if (ret == -EINVAL) {
		cow_checker_corrupt(c, "ERROR %s", err.text);
		c->incomplete = true;
		return 0;
	}
	if (!ret)
		ret = cow_checker_mark(c, c->ext.bitmap_directory_off,
				       c->ext.bitmap_directory_bytes, COW_KIND_BITMAP_DIR, 1, NULL);
	for (uint32_t i = 0; i < c->ext.nr_bitmaps && !ret; i++)
		ret = mark_bitmap(c, &list[i]);
	free(list);
	return ret;
}
