/* SPDX-License-Identifier: MIT */
#include "engine/bitmap/bitmap_data.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/format/geometry.h"
#include "engine/loop/blocking.h"

static int fault(const struct cow_bitmap *b, const char *what, struct cow_error *err)
{
	return cow_error_set(err, -EINVAL, "bitmap '%.200s': %s: remove it", b->name, what);
}

static int check_table(const struct cow_file *file, const struct cow_header *h,
		       const struct cow_bitmap *b, const uint64_t *table, struct cow_error *err)
{
	for (uint32_t i = 0; i < b->table_entries; i++) {
		const char *rule = cow_bitmap_table_fault(table[i], cow_cluster_bytes(h));
		if (rule)
			return cow_error_set(err, -EINVAL,
					     "bitmap '%.200s': table entry %" PRIu32
					     ": %s: remove it",
					     b->name, i, rule);
		if ((table[i] & COW_BITMAP_TABLE_OFFSET_MASK) >= file->size_bytes)
			return fault(b, "its data lies past the end of the file", err);
	}
	return 0;
}

int cow_bitmap_read_table(struct cow_loop *loop, struct cow_file *file, const struct cow_header *h,
			  const struct cow_bitmap *b, uint64_t **table, struct cow_error *err)
{
	uint64_t bytes = (uint64_t)b->table_entries * 8;
	*table = NULL;
	if (b->table_entries != cow_bitmap_table_entries(h, b->granularity_bits))
		return fault(b, "its table does not fit the disk's size", err);
	if (b->table_off > file->size_bytes || bytes > file->size_bytes - b->table_off)
		return fault(b, "its table lies past the end of the file", err);
	uint64_t *out = cow_buf_alloc(bytes);
	int ret = out ? cow_loop_read(loop, file, b->table_off, out, cow_round_up(bytes, 512))
		      : -ENOMEM;
	if (ret)
		cow_error_set(err, ret, "bitmap '%.200s': cannot read its table: %s", b->name,
			      strerror(-ret));
	for (uint32_t i = 0; i < b->table_entries && !ret; i++)
		out[i] = cow_load64_be(&out[i]);
	if (!ret)
		ret = check_table(file, h, b, out, err);
	if (ret)
		free(out);
	else
		*table = out;
	return ret;
}

/* Up to a cluster of data at `at`, by its table entry. */
static int read_part(struct cow_loop *loop, struct cow_file *file, uint64_t entry, uint8_t *buf,
		     uint64_t bytes, uint64_t at, struct cow_dirty *d)
{
	uint64_t off = entry & COW_BITMAP_TABLE_OFFSET_MASK;
	int ret = 0;
	if (off)
		ret = cow_loop_read(loop, file, off, buf, bytes);
	else if (entry & COW_BITMAP_TABLE_ALL_ONES)
		memset(buf, 0xff, bytes);
	else
		return 0;
	if (!ret)
		cow_dirty_load(d, at, buf, bytes);
	return ret;
}

/*
 * Only what the disk needs of the last cluster: there may be 65535 bitmaps of a few bytes in
 * clusters of 2 MiB.
 */
static int read_parts(struct cow_loop *loop, struct cow_file *file, const struct cow_header *h,
		      const struct cow_bitmap *b, const uint64_t *table, struct cow_dirty *d)
{
	uint64_t left =
		cow_round_up(cow_bitmap_data_bytes(h->size_bytes, b->granularity_bits), 512);
	uint8_t *buf = cow_buf_alloc(cow_min(left, cow_cluster_bytes(h)));
	int ret = buf ? 0 : -ENOMEM;
	for (uint32_t i = 0; i < b->table_entries && !ret; i++) {
		uint64_t bytes = cow_min(left, cow_cluster_bytes(h));
		cow_assert(bytes); /* cow_bitmap_read_table() has counted the entries */
		ret = read_part(loop, file, table[i], buf, bytes, (uint64_t)i << h->cluster_bits,
				d);
		left -= bytes;
	}
	free(buf);
	return ret;
}

int cow_bitmap_read(struct cow_loop *loop, struct cow_file *file, const struct cow_header *h,
		    const struct cow_bitmap *b, struct cow_dirty *d, struct cow_error *err)
{
	uint64_t *table;
	memset(d, 0, sizeof(*d));
	int ret = cow_bitmap_read_table(loop, file, h, b, &table, err);
	if (ret)
		return ret;
	ret = cow_dirty_init(d, h->size_bytes, b->granularity_bits);
	if (!ret)
		ret = read_parts(loop, file, h, b, table, d);
	free(table);
	if (ret) {
		cow_dirty_fini(d);
		return cow_error_set(err, ret, "bitmap '%.200s': cannot read its data: %s", b->name,
				     strerror(-ret));
	}
	return 0;
}
