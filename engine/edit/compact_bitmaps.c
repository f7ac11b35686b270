/* SPDX-License-Identifier: MIT */
/* See compact_bitmaps.h. In this order: what stays; data; tables; the directory. */
#include "engine/edit/compact_bitmaps.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/core/load.h"
#include "engine/edit/edit_fault.h"
#include "engine/edit/edit_places.h"
#include "engine/edit/edit_refcount.h"
#include "engine/loop/blocking.h"

static uint64_t clusters_of(const struct cow_edit *e, uint64_t bytes)
{
	return (bytes + e->g.cluster_bytes - 1) >> e->g.cluster_bits;
}

/* Whole clusters of the file, zero-padded; free() them. */
static int read_clusters(struct cow_edit *e, uint64_t off, uint64_t bytes, uint8_t **raw)
{
	uint64_t whole = cow_max(clusters_of(e, bytes), 1) << e->g.cluster_bits;
	*raw = cow_buf_alloc(whole);
	int ret = *raw ? 0 : cow_error_no_memory(e->err);
	if (!ret && bytes)
		ret = cow_loop_read(e->loop, e->file, off, *raw, bytes);
	return ret && *raw ? cow_error_set(e->err, ret, "bitmap at offset %" PRIu64 ": %s", off,
					   strerror(-ret))
			   : ret;
}

/* ---- what stays ---- */

static int look_at(struct cow_compact_bitmaps *b, const struct cow_bitmap *bitmap)
{
	struct cow_edit *e = b->e;
	uint64_t bytes = (uint64_t)bitmap->table_entries * 8;
	uint8_t *table;
	b->clusters += clusters_of(e, bytes);
	if (e->places.can)
		return 0;
	int ret = read_clusters(e, bitmap->table_off, bytes, &table);
	b->stays(b->ctx, bitmap->table_off, bytes);
	for (uint64_t i = 0; i < bitmap->table_entries && !ret; i++) {
		uint64_t off = cow_load64_be(table + i * 8) & COW_BITMAP_TABLE_OFFSET_MASK;
		if (off)
			b->stays(b->ctx, off, e->g.cluster_bytes);
	}
	free(table);
	return ret;
}

int cow_compact_bitmaps_look(struct cow_compact_bitmaps *b)
{
	struct cow_edit *e = b->e;
	struct cow_bitmap *bitmaps = NULL;
	if (!e->ext.has_bitmaps)
		return 0;
	int ret = cow_edit_load_places(e);
	if (!ret)
		ret = cow_load_bitmaps(e->loop, e->file, &e->header, &e->ext, &bitmaps, e->err);
	if (!ret && !e->places.can)
		b->stays(b->ctx, e->ext.bitmap_directory_off, e->ext.bitmap_directory_bytes);
	b->clusters = clusters_of(e, e->ext.bitmap_directory_bytes);
	for (uint32_t i = 0; bitmaps && i < e->ext.nr_bitmaps && !ret; i++)
		ret = look_at(b, &bitmaps[i]);
	free(bitmaps);
	return ret;
}

/* ---- data ---- */

static bool is_behind(const struct cow_compact_bitmaps *b, uint64_t off, uint64_t bytes)
{
	return bytes && off + bytes > b->from << b->e->g.cluster_bits;
}

static int move_data(struct cow_compact_bitmaps *b, uint8_t *entry, bool *changed)
{
	struct cow_edit *e = b->e;
	uint64_t raw = cow_load64_be(entry), host = raw & COW_BITMAP_TABLE_OFFSET_MASK, off;
	if (!host || !is_behind(b, host, e->g.cluster_bytes))
		return 0;
	int ret = cow_edit_alloc_below(e, 1, b->from, &off);
	if (ret || !off)
		return ret;
	ret = b->copy(b->ctx, host, off);
	if (!ret)
		ret = cow_edit_count(e, host, e->g.cluster_bytes, -1);
	cow_store64_be(entry, (raw & ~COW_BITMAP_TABLE_OFFSET_MASK) | off);
	*changed = true;
	return ret;
}

/* ---- tables ---- */

/* raw, whole clusters, to a new place; what lies at *off, of so many bytes, is free then. */
static int write_anew(struct cow_compact_bitmaps *b, const uint8_t *raw, uint64_t *off,
		      uint64_t bytes)
{
	struct cow_edit *e = b->e;
	uint64_t clusters = clusters_of(e, bytes), to;
	int ret = cow_edit_alloc(e, clusters, &to);
	if (!ret)
		ret = cow_edit_count(e, *off, bytes, -1);
	*off = to;
	return ret ? ret
		   : cow_edit_cannot_write(e, cow_loop_write(e->loop, e->file, to, raw,
							     clusters << e->g.cluster_bits));
}

/* *off: of the table, as it will be. */
static int move_bitmap(struct cow_compact_bitmaps *b, uint64_t *off, uint64_t nr)
{
	bool changed = is_behind(b, *off, nr * 8);
	uint8_t *table;
	int ret = read_clusters(b->e, *off, nr * 8, &table);
	for (uint64_t i = 0; i < nr && !ret; i++)
		ret = move_data(b, table + i * 8, &changed);
	if (!ret && changed)
		ret = write_anew(b, table, off, nr * 8);
	free(table);
	return ret;
}

/* ---- the directory ---- */

static int move_bitmaps(struct cow_compact_bitmaps *b, const struct cow_bitmap *bitmaps)
{
	struct cow_edit *e = b->e;
	uint64_t at = e->ext.bitmap_directory_off, bytes = e->ext.bitmap_directory_bytes;
	bool changed = is_behind(b, at, bytes);
	uint8_t *directory;
	int ret = read_clusters(e, at, bytes, &directory);
	for (uint32_t i = 0; i < e->ext.nr_bitmaps && !ret; i++) {
		uint64_t off = bitmaps[i].table_off;
		ret = move_bitmap(b, &off, bitmaps[i].table_entries);
		changed |= off != bitmaps[i].table_off;
		cow_store64_be(directory + bitmaps[i].entry_off, off);
	}
	if (!ret && changed)
		ret = write_anew(b, directory, &at, bytes);
	if (!ret && changed)
		cow_edit_place_bitmaps(e, at);
	free(directory);
	return ret;
}

int cow_compact_bitmaps_move(struct cow_compact_bitmaps *b)
{
	struct cow_edit *e = b->e;
	struct cow_bitmap *bitmaps = NULL;
	if (!e->ext.has_bitmaps || !e->places.can)
		return 0;
	int ret = cow_load_bitmaps(e->loop, e->file, &e->header, &e->ext, &bitmaps, e->err);
	if (!ret)
		ret = move_bitmaps(b, bitmaps);
	free(bitmaps);
	return ret;
}
