/* SPDX-License-Identifier: MIT */
#include "engine/bitmap/tracking.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/log.h"
#include "engine/bitmap/bitmap_data.h"
#include "engine/bitmap/bitmap_edit.h"
#include "engine/core/load.h"
#include "engine/image/state.h"
#include "engine/loop/blocking.h"

/* ---- start ---- */

/* What the file says of bitmaps. */
struct directory {
	struct cow_header header;
	struct cow_extensions ext;
	struct cow_bitmap *list;
	uint32_t nr;
};

static int load_directory(struct directory *dir, struct cow_loop *loop, struct cow_file *file,
			  struct cow_error *err)
{
	uint8_t *cluster;
	memset(dir, 0, sizeof(*dir));
	int ret = cow_load_header(loop, file, false, &dir->header, &cluster, err);
	if (ret)
		return ret;
	ret = cow_extensions_decode(cluster, &dir->header, &dir->ext, err);
	free(cluster);
	if (!ret)
		ret = cow_load_bitmaps(loop, file, &dir->header, &dir->ext, &dir->list, err);
	dir->nr = !ret && dir->ext.has_bitmaps ? dir->ext.nr_bitmaps : 0;
	return ret;
}

static bool is_tracked(const struct cow_bitmap *b)
{
	return (b->flags & COW_BITMAP_AUTO) && !(b->flags & COW_BITMAP_IN_USE);
}

static int check_limits(const struct directory *dir, struct cow_error *err)
{
	struct cow_dirty_budget budget = { 0 };
	int ret = 0;
	for (uint32_t i = 0; i < dir->nr && !ret; i++)
		if (is_tracked(&dir->list[i]))
			ret = cow_dirty_budget_take(&budget, dir->header.size_bytes,
						    dir->list[i].granularity_bits, err);
	return ret;
}

static int load_one(struct cow_tracked *t, const struct directory *dir, const struct cow_bitmap *b,
		    struct cow_loop *loop, struct cow_file *file, struct cow_error *err)
{
	t->name = strdup(b->name);
	t->flags = b->flags;
	t->entry_off = b->entry_off;
	t->flags_off = dir->ext.bitmap_directory_off + b->entry_off + COW_BITMAP_FLAGS_OFF;
	if (!t->name)
		return cow_error_set(err, -ENOMEM, "out of memory");
	return cow_bitmap_read(loop, file, &dir->header, b, &t->dirty, err);
}

static int load_all(struct cow_tracking *t, const struct directory *dir, struct cow_loop *loop,
		    struct cow_file *file, struct cow_error *err)
{
	int ret = check_limits(dir, err);
	t->list = ret ? NULL : calloc(dir->nr + 1ul, sizeof(*t->list));
	if (!ret && !t->list)
		return cow_error_set(err, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < dir->nr && !ret; i++)
		if (is_tracked(&dir->list[i]))
			ret = load_one(&t->list[t->nr++], dir, &dir->list[i], loop, file, err);
	for (unsigned i = 0; i < t->nr && !ret; i++)
		atomic_store(&t->list[i].dirty.changed, false);
	return ret;
}

/* An entry's flags word lies within a sector: in place, and never torn. */
static int write_flags(struct cow_tracking *t, struct cow_loop *loop, struct cow_file *file,
		       uint32_t more)
{
	int ret = 0;
	for (unsigned i = 0; i < t->nr && !ret; i++) {
		uint8_t be[4];
		cow_store32_be(be, t->list[i].flags | more);
		ret = cow_loop_write(loop, file, t->list[i].flags_off, be, sizeof(be));
	}
	return ret || !t->nr ? ret : cow_loop_sync(loop, file);
}

static int start(struct cow_tracking *t, struct directory *dir, struct cow_loop *loop,
		 struct cow_file *file, struct cow_error *err)
{
	int ret = load_directory(dir, loop, file, err);
	if (!ret)
		ret = load_all(t, dir, loop, file, err);
	if (ret)
		return ret;
	ret = write_flags(t, loop, file, COW_BITMAP_IN_USE);
	return ret ? cow_error_set(err, ret, "cannot mark them as in use: %s", strerror(-ret)) : 0;
}

void cow_tracking_start(struct cow_tracking *t, struct cow_loop *loop, struct cow_file *file)
{
	struct directory dir;
	struct cow_error own = { 0 };
	memset(t, 0, sizeof(*t));
	int ret = start(t, &dir, loop, file, &own);
	t->kept = !ret && dir.nr;
	free(dir.list);
	if (!ret)
		return;
	cow_tracking_fini(t);
	cow_log(COW_LOG_WARNING,
		"%s: its dirty bitmaps cannot be kept: %s: the first write makes them invalid",
		file->path, own.text);
}

void cow_tracking_fini(struct cow_tracking *t)
{
	for (unsigned i = 0; i < t->nr; i++) {
		cow_dirty_fini(&t->list[i].dirty);
		free(t->list[i].name);
	}
	free(t->list);
	memset(t, 0, sizeof(*t));
}

/* ---- store ---- */

static bool any_changed(const struct cow_tracking *t)
{
	for (unsigned i = 0; i < t->nr; i++)
		if (atomic_load(&t->list[i].dirty.changed))
			return true;
	return false;
}

/* Nobody but us has changed the directory since the start. */
static void take_over(struct cow_bitmap_item *item, const struct cow_tracked *t)
{
	item->b.flags = t->flags;
	if (atomic_load(&t->dirty.changed))
		item->content = &t->dirty;
}

static int store_changed(struct cow_tracking *t, struct cow_loop *loop, struct cow_file *file,
			 struct cow_error *err)
{
	struct cow_bitmap_edit edit;
	int ret = cow_bitmap_edit_open(&edit, loop, file, err);
	if (ret)
		return ret;
	for (uint32_t i = 0; i < edit.nr; i++)
		for (unsigned j = 0; j < t->nr; j++)
			if (edit.items[i].b.entry_off == t->list[j].entry_off)
				take_over(&edit.items[i], &t->list[j]);
	ret = cow_bitmap_edit_commit(&edit);
	cow_bitmap_edit_close(&edit);
	return ret;
}

int cow_tracking_store(struct cow_tracking *t, struct cow_loop *loop, struct cow_file *file,
		       struct cow_error *err)
{
	if (!t->nr)
		return 0;
	int ret = 0;
	if (any_changed(t))
		ret = store_changed(t, loop, file, err);
	else if (write_flags(t, loop, file, 0))
		ret = -ENOTRECOVERABLE; /* some may look consistent now */
	return ret ? cow_error_set(err, ret, "cannot store its dirty bitmaps: %s", strerror(-ret))
		   : 0;
}

/* ---- store without room ---- */

/* Part i of the content to its cluster; without one, all of the part is dirty if anything is. */
static int put_part(struct cow_image *image, struct cow_loop *loop, const struct cow_dirty *d,
		    uint32_t i, uint64_t *entry, uint8_t *buf)
{
	const struct cow_geometry *g = &image->g;
	bool any = cow_dirty_store(d, (uint64_t)i << g->cluster_bits, buf, g->cluster_bytes);
	uint64_t off = *entry & COW_BITMAP_TABLE_OFFSET_MASK;
	if (!off) {
		*entry = any ? COW_BITMAP_TABLE_ALL_ONES : 0;
		return 0;
	}
	return cow_overlap(image, off, g->cluster_bytes)
		       ? -EINVAL
		       : cow_loop_write(loop, image->file, off, buf, g->cluster_bytes);
}

static int put_parts(struct cow_image *image, struct cow_loop *loop, const struct cow_dirty *d,
		     const struct cow_bitmap *b, uint64_t *table)
{
	uint64_t bytes = (uint64_t)b->table_entries * 8;
	uint8_t *buf = cow_buf_alloc(image->g.cluster_bytes);
	int ret = !buf ? -ENOMEM : cow_overlap(image, b->table_off, bytes) ? -EINVAL : 0;
	for (uint32_t i = 0; i < b->table_entries && !ret; i++) {
		ret = put_part(image, loop, d, i, &table[i], buf);
		cow_store64_be(&table[i], table[i]);
	}
	if (!ret)
		ret = cow_loop_write(loop, image->file, b->table_off, table, bytes);
	free(buf);
	return ret;
}

static int put_one(struct cow_image *image, struct cow_loop *loop, const struct directory *dir,
		   const struct cow_tracked *t, struct cow_error *err)
{
	uint64_t *table;
	uint32_t i = 0;
	while (i < dir->nr && dir->list[i].entry_off != t->entry_off)
		i++;
	if (i == dir->nr)
		return -EINVAL;
	int ret =
		cow_bitmap_read_table(loop, image->file, &dir->header, &dir->list[i], &table, err);
	if (ret)
		return ret;
	ret = put_parts(image, loop, &t->dirty, &dir->list[i], table);
	free(table);
	return ret;
}

int cow_tracking_store_in_place(struct cow_image *image, struct cow_loop *loop,
				struct cow_error *err)
{
	struct cow_tracking *t = &image->tracking;
	struct directory dir;
	int ret = load_directory(&dir, loop, image->file, err);
	for (unsigned i = 0; i < t->nr && !ret; i++)
		if (atomic_load(&t->list[i].dirty.changed))
			ret = put_one(image, loop, &dir, &t->list[i], err);
	free(dir.list);
	if (!ret)
		ret = cow_loop_sync(loop, image->file);
	if (!ret)
		ret = write_flags(t, loop, image->file, 0);
	return ret ? cow_error_set(err, ret, "cannot store its dirty bitmaps: %s", strerror(-ret))
		   : 0;
}

/* ---- on an opened image ---- */

struct live_change {
	struct cow_image *image;
	const struct cow_bitmap_change *change;
};

/*
 * Frozen, all written back. Whatever becomes of it, the next write finds bitmaps marked as in use,
 * or not valid.
 */
static int change_stored(void *ctx, struct cow_loop *loop, struct cow_file *file,
			 struct cow_error *err)
{
	struct live_change *live = ctx;
	struct cow_image *image = live->image;
	int ret = cow_tracking_store(&image->tracking, loop, file, err);
	if (ret)
		return ret;
	ret = cow_bitmap_run(loop, file, live->change, err);
	cow_tracking_fini(&image->tracking);
	cow_tracking_start(&image->tracking, loop, file);
	if (!image->tracking.kept)
		atomic_store(&image->ready_for_write, false);
	return ret;
}

int cow_image_change_bitmaps(struct cow_image *image, struct cow_loop *loop,
			     const struct cow_bitmap_change *change, uint64_t *pause_ns,
			     struct cow_error *err)
{
	struct live_change live = { .image = image, .change = change };
	return cow_image_change_frozen(image, loop, change_stored, &live, pause_ns, err);
}

int cow_image_dump_bitmap(struct cow_image *image, struct cow_loop *loop, const char *name,
			  struct cow_dirty *d, struct cow_error *err)
{
	for (unsigned i = 0; i < image->tracking.nr; i++) {
		const struct cow_dirty *from = &image->tracking.list[i].dirty;
		if (strcmp(image->tracking.list[i].name, name))
			continue;
		if (cow_dirty_init(d, from->size_bytes, from->granularity_bits))
			return cow_error_set(err, -ENOMEM, "out of memory");
		cow_dirty_merge(d, from);
		return 0;
	}
	return cow_bitmap_dump(loop, image->file, name, d, err);
}

int cow_image_list_bitmaps(struct cow_image *image, struct cow_loop *loop, struct cow_bitmap **list,
			   uint32_t *nr, struct cow_error *err)
{
	struct directory dir;
	int ret = load_directory(&dir, loop, image->file, err);
	for (uint32_t i = 0; i < dir.nr; i++)
		for (unsigned j = 0; j < image->tracking.nr; j++)
			if (dir.list[i].entry_off == image->tracking.list[j].entry_off)
				dir.list[i].flags &= ~COW_BITMAP_IN_USE;
	*list = dir.list;
	*nr = dir.nr;
	return ret;
}
