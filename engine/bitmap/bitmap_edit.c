/* SPDX-License-Identifier: MIT */
/*
 * See bitmap_edit.h. In this order: opening; which there are; references; writing; afterwards.
 */
#include "engine/bitmap/bitmap_edit.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/log.h"
#include "engine/base/math.h"
#include "engine/bitmap/bitmap_data.h"
#include "engine/bitmap/bitmap_extension.h"
#include "engine/core/load.h"
#include "engine/edit/edit_fault.h"
#include "engine/edit/edit_refcount.h"
#include "engine/loop/blocking.h"

/* Of all bitmaps together: they are read to make sure that nothing is written over them. */
#define MAX_TABLE_ENTRIES (16ull << 20)

/* ---- opening ---- */

static int take_list(struct cow_bitmap_edit *edit, const struct cow_bitmap *list, uint32_t nr)
{
	uint64_t entries = 0;
	edit->items = calloc(nr + 1ul, sizeof(*edit->items));
	edit->dropped = calloc(nr + 1ul, sizeof(*edit->dropped));
	if (!edit->items || !edit->dropped)
		return cow_error_no_memory(edit->e.err);
	for (uint32_t i = 0; i < nr; i++) {
		edit->items[i].b = list[i];
		edit->items[i].old =
			(struct cow_bitmap_table){ list[i].table_off, list[i].table_entries };
		entries += list[i].table_entries;
	}
	edit->nr = nr;
	if (entries > MAX_TABLE_ENTRIES)
		return cow_error_set(edit->e.err, -EFBIG,
				     "its bitmaps have %" PRIu64
				     " table entries in all, more than %llu",
				     entries, MAX_TABLE_ENTRIES);
	return 0;
}

int cow_bitmap_edit_open(struct cow_bitmap_edit *edit, struct cow_loop *loop, struct cow_file *file,
			 struct cow_error *err)
{
	struct cow_bitmap *list = NULL;
	memset(edit, 0, sizeof(*edit));
	int ret = cow_edit_open_any(&edit->e, loop, file, err);
	if (ret)
		return ret;
	const struct cow_extensions *ext = &edit->e.ext;
	edit->had = ext->has_bitmaps;
	if (edit->e.header.version < 3)
		ret = cow_error_set(
			err, -ENOTSUP,
			"images of version 2 cannot have bitmaps: cowblk amend -o compat=1.1 makes "
			"it version 3");
	if (!ret)
		ret = cow_load_bitmaps(loop, file, &edit->e.header, ext, &list, err);
	if (!ret)
		ret = take_list(edit, list, edit->had ? ext->nr_bitmaps : 0);
	free(list);
	if (ret)
		cow_bitmap_edit_close(edit);
	return ret;
}

void cow_bitmap_edit_close(struct cow_bitmap_edit *edit)
{
	cow_edit_close(&edit->e);
	free(edit->items);
	free(edit->dropped);
	memset(edit, 0, sizeof(*edit));
}

/* ---- which there are ---- */

struct cow_bitmap_item *cow_bitmap_edit_find(struct cow_bitmap_edit *edit, const char *name)
{
	for (uint32_t i = 0; i < edit->nr; i++)
		if (!strcmp(edit->items[i].b.name, name))
			return &edit->items[i];
	cow_error_set(edit->e.err, -ENOENT, "there is no bitmap '%.200s'", name);
	return NULL;
}

static uint64_t directory_bytes(const struct cow_bitmap_edit *edit)
{
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < edit->nr; i++)
		bytes += cow_bitmap_entry_bytes(&edit->items[i].b);
	return bytes;
}

static int check_new(struct cow_bitmap_edit *edit, const struct cow_bitmap *b)
{
	const struct cow_header *h = &edit->e.header;
	struct cow_error *err = edit->e.err;
	for (uint32_t i = 0; i < edit->nr; i++)
		if (!strcmp(edit->items[i].b.name, b->name))
			return cow_error_set(err, -EEXIST, "there is a bitmap '%.200s' already",
					     b->name);
	if (edit->nr == COW_MAX_BITMAPS ||
	    directory_bytes(edit) + cow_bitmap_entry_bytes(b) > COW_MAX_BITMAP_DIRECTORY_BYTES)
		return cow_error_set(err, -EFBIG,
				     "there are as many bitmaps as an image can have: remove some");
	if (!h->size_bytes)
		return cow_error_set(err, -EINVAL, "the disk is empty");
	if (cow_bitmap_data_bytes(h->size_bytes, b->granularity_bits) > COW_DIRTY_MAX_BYTES)
		return cow_error_set(err, -EFBIG,
				     "a bitmap of granularity %llu would be larger than 512 MiB: "
				     "take a larger one",
				     1ull << b->granularity_bits);
	return 0;
}

int cow_bitmap_edit_add(struct cow_bitmap_edit *edit, const char *name, unsigned granularity_bits,
			struct cow_bitmap_item **out)
{
	struct cow_bitmap b = { .granularity_bits = (uint8_t)granularity_bits };
	if (!name[0] || strlen(name) > COW_MAX_BITMAP_NAME_BYTES)
		return cow_error_set(edit->e.err, -EINVAL, "a bitmap's name has 1 to %u bytes",
				     COW_MAX_BITMAP_NAME_BYTES);
	if (granularity_bits < COW_BITMAP_MIN_GRANULARITY_BITS ||
	    granularity_bits > COW_BITMAP_MAX_GRANULARITY_BITS)
		return cow_error_set(edit->e.err, -EINVAL,
				     "a bitmap's granularity is a power of two from 512 to 2G");
	memcpy(b.name, name, strlen(name));
	int ret = check_new(edit, &b);
	if (ret)
		return ret;
	struct cow_bitmap_item *more = reallocarray(edit->items, edit->nr + 1ul, sizeof(*more));
	if (!more)
		return cow_error_no_memory(edit->e.err);
	edit->items = more;
	more[edit->nr] = (struct cow_bitmap_item){ .b = b };
	*out = &more[edit->nr++];
	return 0;
}

void cow_bitmap_edit_remove(struct cow_bitmap_edit *edit, struct cow_bitmap_item *item)
{
	uint32_t idx = (uint32_t)(item - edit->items);
	cow_assert(idx < edit->nr);
	if (item->old.entries)
		edit->dropped[edit->nr_dropped++] = item->old;
	edit->nr--;
	memmove(item, item + 1, (edit->nr - idx) * sizeof(*item));
}

/* ---- references ---- */

static bool is_sane(const struct cow_edit *e, const struct cow_bitmap_table *t)
{
	uint64_t bytes = (uint64_t)t->entries * 8;
	return t->off <= e->file->size_bytes && bytes <= e->file->size_bytes - t->off;
}

/* The table and its data: plus delta (0: they must be counted). */
static int count_table(struct cow_edit *e, const struct cow_bitmap_table *t, int delta)
{
	uint64_t bytes = (uint64_t)t->entries * 8;
	if (!is_sane(e, t))
		return cow_edit_corrupt(e, t->off,
					"a bitmap's table lies past the end of the file");
	uint64_t *table = cow_buf_alloc(bytes);
	int ret = table ? cow_loop_read(e->loop, e->file, t->off, table, bytes) : -ENOMEM;
	if (ret)
		cow_error_set(e->err, ret, "bitmap table at offset %" PRIu64 ": %s", t->off,
			      strerror(-ret));
	for (uint32_t i = 0; i < t->entries && !ret; i++) {
		uint64_t entry = cow_load64_be(&table[i]),
			 off = entry & COW_BITMAP_TABLE_OFFSET_MASK;
		if (cow_bitmap_table_fault(entry, e->g.cluster_bytes))
			ret = cow_edit_corrupt(e, t->off + i * 8ull,
					       "a broken entry of a bitmap's table");
		else if (off)
			ret = cow_edit_count(e, off, e->g.cluster_bytes, delta);
	}
	free(table);
	return ret ? ret : cow_edit_count(e, t->off, bytes, delta);
}

/*
 * What stays must not be written over. An inconsistent one is of no use to anybody: it may be
 * broken.
 */
static int verify_kept(struct cow_bitmap_edit *edit)
{
	int ret = 0;
	for (uint32_t i = 0; i < edit->nr && !ret; i++)
		if (!edit->items[i].content && !(edit->items[i].b.flags & COW_BITMAP_IN_USE))
			ret = count_table(&edit->e, &edit->items[i].old, 0);
	return ret;
}

/* ---- writing ---- */

static int cannot_write(struct cow_edit *e, int ret)
{
	return ret ? cow_error_set(e->err, ret, "cannot write bitmaps: %s", strerror(-ret)) : 0;
}

/* bytes of buf, which is as long as the clusters that they take, to a new place. */
static int write_new(struct cow_edit *e, const void *buf, uint64_t bytes, uint64_t *off)
{
	uint64_t clusters = (bytes + e->g.cluster_bytes - 1) >> e->g.cluster_bits;
	cow_assert(!e->committed);
	int ret = cow_edit_alloc(e, clusters, off);
	return ret ? ret
		   : cannot_write(e, cow_loop_write(e->loop, e->file, *off, buf,
						    clusters << e->g.cluster_bits));
}

/* What is all clean needs no cluster. */
static int write_data(struct cow_edit *e, const struct cow_dirty *content, uint64_t *table,
		      uint32_t entries)
{
	int ret = 0;
	for (uint32_t i = 0; i < entries && !ret; i++) {
		uint64_t off = 0;
		if (cow_dirty_store(content, (uint64_t)i << e->g.cluster_bits, e->table,
				    e->g.cluster_bytes))
			ret = write_new(e, e->table, e->g.cluster_bytes, &off);
		cow_store64_be(&table[i], off);
	}
	return ret;
}

static int write_content(struct cow_edit *e, struct cow_bitmap_item *item)
{
	uint64_t entries = cow_bitmap_table_entries(&e->header, item->b.granularity_bits);
	uint64_t *table = cow_buf_alloc(cow_round_up(entries * 8, e->g.cluster_bytes));
	if (!table)
		return cow_error_no_memory(e->err);
	int ret = write_data(e, item->content, table, (uint32_t)entries);
	if (!ret)
		ret = write_new(e, table, entries * 8, &item->b.table_off);
	item->b.table_entries = (uint32_t)entries;
	free(table);
	return ret;
}

static int write_directory(struct cow_bitmap_edit *edit, struct cow_bitmap_place *place)
{
	struct cow_edit *e = &edit->e;
	if (!edit->nr)
		return 0;
	uint8_t *buf = cow_buf_alloc(cow_round_up(place->directory_bytes, e->g.cluster_bytes)),
		*p = buf;
	if (!buf)
		return cow_error_no_memory(e->err);
	for (uint32_t i = 0; i < edit->nr; i++) {
		cow_bitmap_encode(&edit->items[i].b, p);
		p += cow_bitmap_entry_bytes(&edit->items[i].b);
	}
	cow_assert((uint64_t)(p - buf) == place->directory_bytes);
	int ret = write_new(e, buf, place->directory_bytes, &place->directory_off);
	free(buf);
	return ret;
}

static int write_all(struct cow_bitmap_edit *edit, struct cow_bitmap_place *place)
{
	*place = (struct cow_bitmap_place){ .nr = edit->nr,
					    .directory_bytes = directory_bytes(edit) };
	int ret = cow_bitmap_extension_verify(edit->e.loop, edit->e.file, place, edit->e.err);
	if (!ret)
		ret = verify_kept(edit);
	for (uint32_t i = 0; i < edit->nr && !ret; i++)
		if (edit->items[i].content)
			ret = write_content(&edit->e, &edit->items[i]);
	if (!ret)
		ret = write_directory(edit, place);
	return ret ? ret : cow_edit_commit(&edit->e);
}

/* ---- afterwards ---- */

static int count_old(struct cow_bitmap_edit *edit, struct cow_edit *e, uint64_t directory_off,
		     uint64_t bytes)
{
	int ret = cow_edit_count(e, directory_off, bytes, -1);
	for (uint32_t i = 0; i < edit->nr_dropped && !ret; i++)
		ret = count_table(e, &edit->dropped[i], -1);
	for (uint32_t i = 0; i < edit->nr && !ret; i++)
		if (edit->items[i].content && edit->items[i].old.entries)
			ret = count_table(e, &edit->items[i].old, -1);
	return ret ? ret : cow_edit_commit(e);
}

/* The change itself is done; what cannot be freed is leaked, and said so. */
static int free_old(struct cow_bitmap_edit *edit, struct cow_loop *loop, struct cow_file *file,
		    uint64_t directory_off, uint64_t directory_bytes)
{
	struct cow_error own = { 0 };
	struct cow_edit e;
	cow_assert(edit->e.committed);
	int ret = cow_edit_open_any(&e, loop, file, &own);
	if (ret)
		goto out;
	ret = count_old(edit, &e, directory_off, directory_bytes);
	cow_edit_close(&e);
out:
	if (ret == -ENOTRECOVERABLE)
		return cow_error_set(edit->e.err, ret, "%s", own.text);
	if (ret)
		cow_log(COW_LOG_WARNING, "%s: what its bitmaps do not need any more is leaked: %s",
			file->path, own.text);
	return 0;
}

int cow_bitmap_edit_commit(struct cow_bitmap_edit *edit)
{
	struct cow_bitmap_place place;
	struct cow_loop *loop = edit->e.loop;
	struct cow_file *file = edit->e.file;
	uint64_t old_off = edit->e.ext.bitmap_directory_off,
		 old_bytes = edit->e.ext.bitmap_directory_bytes;
	int ret = write_all(edit, &place);
	if (ret)
		return ret;
	ret = cow_bitmap_extension_write(loop, file, &place, edit->e.err);
	if (ret && ret != -ENOTRECOVERABLE)
		cow_log(COW_LOG_WARNING,
			"%s: what was written for its bitmaps is leaked: cowblk check --repair "
			"leaks gives it back",
			file->path);
	if (!ret && edit->had)
		ret = free_old(edit, loop, file, old_off, old_bytes);
	return ret;
}
