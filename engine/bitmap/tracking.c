/* SPDX-License-Identifier: MIT */
/* See tracking.h. In this order: what was left; start; store; store without room. */
#include "engine/bitmap/tracking.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/full.h"
#include "engine/base/log.h"
#include "engine/bitmap/bitmap_data.h"
#include "engine/bitmap/bitmap_edit.h"
#include "engine/core/load.h"
#include "engine/loop/blocking.h"

/* ---- what was left ---- */

/* As many words as there are zeros in the memory of a bitmap cost nothing. */
static int copy_words(struct cow_dirty *d, int fd, const struct cow_outlive_bitmap *place)
{
	uint64_t bytes = cow_dirty_words_bytes(d);
	if (bytes != place->bytes)
		return -EINVAL;
	const uint8_t *words = cow_shared_map_left(fd, place->words_off, bytes);
	if (!words)
		return -EINVAL;
	cow_dirty_load(d, 0, words, bytes);
	cow_shared_unmap_left(words, bytes);
	return 0;
}

static int take_one(struct cow_tracked *t, int fd, const struct cow_outlive_bitmap *place,
		    uint64_t size_bytes)
{
	if (place->granularity_bits < COW_BITMAP_MIN_GRANULARITY_BITS ||
	    place->granularity_bits > COW_BITMAP_MAX_GRANULARITY_BITS)
		return -EINVAL;
	t->flags = place->flags;
	t->entry_off = place->entry_off;
	int ret = cow_dirty_init(&t->dirty, size_bytes, place->granularity_bits);
	return ret ? ret : copy_words(&t->dirty, fd, place);
}

int cow_tracking_take_left(struct cow_tracking_left *left, int fd, uint64_t size_bytes)
{
	const struct cow_outlive_head *head = cow_shared_map_left(fd, 0, sizeof(*head));
	unsigned nr = head ? atomic_load(&head->nr_bitmaps) : 0;
	int ret = 0;
	memset(left, 0, sizeof(*left));
	if (nr > COW_OUTLIVE_MAX_BITMAPS)
		nr = 0;
	left->list = calloc(nr + 1ul, sizeof(*left->list));
	if (!left->list)
		ret = -ENOMEM;
	/* What cannot be had is inconsistent, as after any other crash. */
	for (unsigned i = 0; i < nr && !ret; i++) {
		ret = take_one(&left->list[left->nr], fd, &head->bitmaps[i], size_bytes);
		if (ret)
			cow_dirty_fini(&left->list[left->nr].dirty);
		else
			left->nr++;
		ret = ret == -ENOMEM ? ret : 0;
	}
	cow_shared_unmap_left(head, sizeof(*head));
	return ret;
}

void cow_tracking_left_fini(struct cow_tracking_left *left)
{
	for (unsigned i = 0; i < left->nr; i++)
		cow_dirty_fini(&left->list[i].dirty);
	free(left->list);
	memset(left, 0, sizeof(*left));
}

static const struct cow_tracked *find_left(const struct cow_tracking_left *left,
					   const struct cow_bitmap *b)
{
	for (unsigned i = 0; left && i < left->nr; i++)
		if (left->list[i].entry_off == b->entry_off &&
		    left->list[i].flags == (b->flags & ~COW_BITMAP_IN_USE) &&
		    left->list[i].dirty.granularity_bits == b->granularity_bits)
			return &left->list[i];
	return NULL;
}

/* ---- start ---- */

int cow_tracking_load_directory(struct cow_tracking_directory *dir, struct cow_loop *loop,
				struct cow_file *file, struct cow_error *err)
{
	uint8_t *cluster;
	memset(dir, 0, sizeof(*dir));
	int ret = cow_load_header(loop, file, &dir->header, &cluster, err);
	if (ret)
		return ret;
	ret = cow_extensions_decode(cluster, &dir->header, &dir->ext, err);
	free(cluster);
	if (!ret)
		ret = cow_load_bitmaps(loop, file, &dir->header, &dir->ext, &dir->list, err);
	dir->nr = !ret && dir->ext.has_bitmaps ? dir->ext.nr_bitmaps : 0;
	return ret;
}

static bool is_tracked(const struct cow_bitmap *b, const struct cow_tracking_left *left)
{
	if (!(b->flags & COW_BITMAP_AUTO))
		return false;
	return !(b->flags & COW_BITMAP_IN_USE) || find_left(left, b);
}

static int check_limits(const struct cow_tracking_directory *dir,
			const struct cow_tracking_left *left, struct cow_error *err)
{
	struct cow_dirty_budget budget = { 0 };
	int ret = 0;
	for (uint32_t i = 0; i < dir->nr && !ret; i++)
		if (is_tracked(&dir->list[i], left))
			ret = cow_dirty_budget_take(&budget, dir->header.size_bytes,
						    dir->list[i].granularity_bits, err);
	return ret;
}

static int load_left(struct cow_tracked *t, const struct cow_tracked *left, struct cow_error *err)
{
	if (cow_dirty_init(&t->dirty, left->dirty.size_bytes, left->dirty.granularity_bits))
		return cow_error_no_memory(err);
	cow_dirty_merge(&t->dirty, &left->dirty);
	return 0;
}

static int load_one(struct cow_tracked *t, const struct cow_tracking_directory *dir,
		    const struct cow_bitmap *b, const struct cow_tracking_left *left,
		    struct cow_loop *loop, struct cow_file *file, struct cow_error *err)
{
	t->name = strdup(b->name);
	t->flags = b->flags & ~COW_BITMAP_IN_USE;
	t->entry_off = b->entry_off;
	t->flags_off = dir->ext.bitmap_directory_off + b->entry_off + COW_BITMAP_FLAGS_OFF;
	if (!t->name)
		return cow_error_no_memory(err);
	if (b->flags & COW_BITMAP_IN_USE)
		return load_left(t, find_left(left, b), err);
	return cow_bitmap_read(loop, file, &dir->header, b, &t->dirty, err);
}

static int load_all(struct cow_tracking *t, const struct cow_tracking_directory *dir,
		    const struct cow_tracking_left *left, struct cow_loop *loop,
		    struct cow_file *file, struct cow_error *err)
{
	int ret = check_limits(dir, left, err);
	t->list = ret ? NULL : calloc(dir->nr + 1ul, sizeof(*t->list));
	if (!ret && !t->list)
		return cow_error_no_memory(err);
	for (uint32_t i = 0; i < dir->nr && !ret; i++) {
		const struct cow_bitmap *b = &dir->list[i];
		if (!is_tracked(b, left))
			continue;
		struct cow_tracked *one = &t->list[t->nr++];
		ret = load_one(one, dir, b, left, loop, file, err);
		/* What was left is not what the file has. */
		if (!ret)
			atomic_store(&one->dirty.changed, b->flags & COW_BITMAP_IN_USE);
	}
	return ret;
}

/* Before they are marked as in use: until then what the file has is right. */
static int share(struct cow_tracking *t, struct cow_error *err)
{
	struct cow_outlive_head *head = t->outlive ? t->outlive->head : NULL;
	int ret = 0;
	for (unsigned i = 0; head && i < t->nr && !ret; i++) {
		struct cow_tracked *one = &t->list[i];
		ret = cow_dirty_share(&one->dirty, &t->outlive->shared);
		head->bitmaps[i] = (struct cow_outlive_bitmap){
			.words_off = one->dirty.part.off,
			.bytes = cow_dirty_words_bytes(&one->dirty),
			.entry_off = one->entry_off,
			.flags = one->flags,
			.granularity_bits = one->dirty.granularity_bits,
		};
	}
	if (ret)
		return cow_error_set(err, ret, "shared memory: %s", strerror(-ret));
	if (head)
		atomic_store(&head->nr_bitmaps, t->nr);
	return 0;
}

/* An entry's flags word lies within a sector: in place, and never torn. */
static int write_flags(struct cow_tracking *t, struct cow_loop *loop, struct cow_file *file,
		       uint32_t more)
{
	int ret = 0;
	for (unsigned i = 0; i < t->nr && !ret; i++) {
		uint8_t be[4];
		cow_assert(!(t->list[i].flags & COW_BITMAP_IN_USE)); /* it would stay */
		cow_store32_be(be, t->list[i].flags | more);
		ret = cow_loop_write(loop, file, t->list[i].flags_off, be, sizeof(be));
	}
	return ret || !t->nr ? ret : cow_loop_sync(loop, file) ? -EIO : 0;
}

static int start(struct cow_tracking *t, struct cow_tracking_directory *dir,
		 const struct cow_tracking_left *left, struct cow_loop *loop, struct cow_file *file,
		 struct cow_error *err)
{
	int ret = cow_tracking_load_directory(dir, loop, file, err);
	if (!ret)
		ret = load_all(t, dir, left, loop, file, err);
	if (!ret)
		ret = share(t, err);
	if (ret)
		return ret;
	ret = write_flags(t, loop, file, COW_BITMAP_IN_USE);
	return ret ? cow_error_set(err, ret, "cannot mark them as in use: %s", strerror(-ret)) : 0;
}

void cow_tracking_start(struct cow_tracking *t, struct cow_loop *loop, struct cow_core *core,
			struct cow_outlive *outlive, const struct cow_tracking_left *left)
{
	struct cow_file *file = core->file;
	struct cow_tracking_directory dir;
	struct cow_error own = { 0 };
	memset(t, 0, sizeof(*t));
	t->outlive = outlive;
	int ret = start(t, &dir, left, loop, file, &own);
	t->kept = !ret && dir.nr;
	core->kept_autoclear &= ~(uint64_t)QCOW2_AUTOCLEAR_BITMAPS;
	if (t->kept)
		core->kept_autoclear |= QCOW2_AUTOCLEAR_BITMAPS;
	free(dir.list);
	if (!ret) {
		cow_assert(t->kept || !t->nr);
		return;
	}
	cow_tracking_fini(t);
	cow_log(COW_LOG_WARNING,
		"%s: its dirty bitmaps cannot be kept: %s: the first write makes them invalid",
		file->path, own.text);
}

void cow_tracking_fini(struct cow_tracking *t)
{
	if (t->outlive && t->outlive->head)
		atomic_store(&t->outlive->head->nr_bitmaps, 0);
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
	cow_assert(!(t->flags & COW_BITMAP_IN_USE));
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

/* All of them are marked as in use, or are so again. */
static bool is_taken_back(struct cow_tracking *t, struct cow_loop *loop, struct cow_file *file)
{
	bool again = false;
	for (unsigned i = 0; i < t->nr; i++) {
		uint8_t be[4];
		if (cow_loop_read(loop, file, t->list[i].flags_off, be, sizeof(be)))
			return false;
		again |= cow_load32_be(be) != (t->list[i].flags | COW_BITMAP_IN_USE);
	}
	return !again || !write_flags(t, loop, file, COW_BITMAP_IN_USE);
}

/* Some may look consistent when it fails: a full host refuses to overwrite too. */
static int say_consistent(struct cow_tracking *t, struct cow_loop *loop, struct cow_file *file)
{
	int ret = write_flags(t, loop, file, 0);
	bool sure = !ret || (cow_full_is(ret) && is_taken_back(t, loop, file));
	return sure ? ret : -ENOTRECOVERABLE;
}

int cow_tracking_store(struct cow_tracking *t, struct cow_loop *loop, struct cow_file *file,
		       struct cow_error *err)
{
	if (!t->nr)
		return 0;
	int ret = 0;
	if (any_changed(t))
		ret = store_changed(t, loop, file, err);
	else
		ret = say_consistent(t, loop, file);
	return ret ? cow_error_set(err, ret, "cannot store its dirty bitmaps: %s", strerror(-ret))
		   : 0;
}

/* ---- store without room ---- */

/* Part i of the content to its cluster; without one, all of the part is dirty if anything is. */
static int put_part(struct cow_meta *meta, struct cow_loop *loop, const struct cow_dirty *d,
		    uint32_t i, uint64_t *entry, uint8_t *buf)
{
	const struct cow_geometry *g = &meta->core->g;
	bool any = cow_dirty_store(d, (uint64_t)i << g->cluster_bits, buf, g->cluster_bytes);
	uint64_t off = *entry & COW_BITMAP_TABLE_OFFSET_MASK;
	if (!off) {
		*entry = any ? COW_BITMAP_TABLE_ALL_ONES : 0;
		return 0;
	}
	return cow_overlap(meta, off, g->cluster_bytes)
		       ? -EINVAL
		       : cow_loop_write(loop, meta->core->file, off, buf, g->cluster_bytes);
}

static int put_parts(struct cow_meta *meta, struct cow_loop *loop, const struct cow_dirty *d,
		     const struct cow_bitmap *b, uint64_t *table)
{
	uint64_t bytes = (uint64_t)b->table_entries * 8;
	uint8_t *buf = cow_buf_alloc(meta->core->g.cluster_bytes);
	int ret = !buf ? -ENOMEM : cow_overlap(meta, b->table_off, bytes) ? -EINVAL : 0;
	for (uint32_t i = 0; i < b->table_entries && !ret; i++) {
		ret = put_part(meta, loop, d, i, &table[i], buf);
		cow_store64_be(&table[i], table[i]);
	}
	if (!ret)
		ret = cow_loop_write(loop, meta->core->file, b->table_off, table, bytes);
	free(buf);
	return ret;
}

static int put_one(struct cow_meta *meta, struct cow_loop *loop,
		   const struct cow_tracking_directory *dir, const struct cow_tracked *t,
		   struct cow_error *err)
{
	uint64_t *table;
	uint32_t i = 0;
	while (i < dir->nr && dir->list[i].entry_off != t->entry_off)
		i++;
	if (i == dir->nr)
		return -EINVAL;
	int ret = cow_bitmap_read_table(loop, meta->core->file, &dir->header, &dir->list[i], &table,
					err);
	if (ret)
		return ret;
	ret = put_parts(meta, loop, &t->dirty, &dir->list[i], table);
	free(table);
	return ret;
}

int cow_tracking_store_in_place(struct cow_tracking *t, struct cow_meta *meta,
				struct cow_loop *loop, struct cow_error *err)
{
	struct cow_tracking_directory dir;
	int ret = cow_tracking_load_directory(&dir, loop, meta->core->file, err);
	for (unsigned i = 0; i < t->nr && !ret; i++)
		if (atomic_load(&t->list[i].dirty.changed))
			ret = put_one(meta, loop, &dir, &t->list[i], err);
	free(dir.list);
	if (!ret)
		ret = cow_loop_sync(loop, meta->core->file);
	if (!ret)
		ret = write_flags(t, loop, meta->core->file, 0);
	return ret ? cow_error_set(err, ret, "cannot store its dirty bitmaps: %s", strerror(-ret))
		   : 0;
}
