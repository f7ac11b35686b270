/* SPDX-License-Identifier: MIT */
/* See bitmap_copy.h. In this order: which there are; whether they fit; one; all. */
#include "engine/tool/bitmap_copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/log.h"
#include "engine/base/math.h"
#include "engine/bitmap/bitmap_data.h"
#include "engine/bitmap/bitmap_edit.h"
#include "engine/bitmap/bitmap_extension.h"
#include "engine/core/load.h"
#include "engine/image/state.h"
#include "engine/tool/disk_state.h"

#define BATCH_BYTES (64ull << 20)
#define BATCH_MOST 1024u
#define PART_BYTES 65536u

static const struct cow_core *core_of(const struct cow_disk *disk)
{
	return &disk->image->core;
}

/* ---- which there are ---- */

static int take(struct cow_bitmap_copy *copy, const struct cow_bitmap *b, struct cow_error *err)
{
	if (!(b->flags & COW_BITMAP_IN_USE)) {
		copy->list[copy->nr++] = *b;
		return 0;
	}
	if (!copy->skip_broken)
		return cow_error_set(err, -EINVAL,
				     "%s: bitmap '%.200s' is inconsistent: remove it, or leave "
				     "such ones out with --skip-broken-bitmaps",
				     copy->source->path, b->name);
	cow_log(COW_LOG_WARNING, "%s: bitmap '%.200s' is inconsistent: left out",
		copy->source->path, b->name);
	return 0;
}

int cow_bitmap_copy_plan(struct cow_bitmap_copy *copy, struct cow_loop *loop, struct cow_error *err)
{
	cow_assert(copy->source->image && !copy->list);
	const struct cow_core *core = core_of(copy->source);
	struct cow_bitmap *list = NULL;
	int ret = cow_load_bitmaps(loop, core->file, &core->header, &core->ext, &list, err);
	if (ret) {
		cow_error_prefix(err, "%s", copy->source->path);
		return ret;
	}
	uint32_t nr = list ? core->ext.nr_bitmaps : 0;
	copy->list = calloc(nr + 1ul, sizeof(*copy->list));
	if (!copy->list)
		ret = cow_error_no_memory(err);
	for (uint32_t i = 0; i < nr && !ret; i++)
		ret = take(copy, &list[i], err);
	free(list);
	return ret;
}

void cow_bitmap_copy_fini(struct cow_bitmap_copy *copy)
{
	free(copy->list);
	copy->list = NULL;
	copy->nr = 0;
}

/* ---- whether they fit ---- */

static bool has_name(const struct cow_bitmap_copy *copy, const char *name)
{
	for (uint32_t i = 0; i < copy->nr; i++)
		if (!strcmp(copy->list[i].name, name))
			return true;
	return false;
}

static int check_names(const struct cow_bitmap_copy *copy, struct cow_loop *loop,
		       const struct cow_disk *target, struct cow_error *err)
{
	const struct cow_core *core = core_of(target);
	struct cow_bitmap *there = NULL;
	int ret = cow_load_bitmaps(loop, core->file, &core->header, &core->ext, &there, err);
	for (uint32_t i = 0; !ret && there && i < core->ext.nr_bitmaps; i++)
		if (has_name(copy, there[i].name))
			ret = cow_error_set(err, -EEXIST, "there is a bitmap '%.200s' already",
					    there[i].name);
	free(there);
	return ret;
}

static int check_sizes(const struct cow_bitmap_copy *copy, const struct cow_disk *target,
		       struct cow_error *err)
{
	for (uint32_t i = 0; i < copy->nr; i++)
		if (cow_bitmap_data_bytes(cow_disk_bytes(target), copy->list[i].granularity_bits) >
		    COW_DIRTY_MAX_BYTES)
			return cow_error_set(err, -EFBIG,
					     "bitmap '%.200s' would be larger than 512 MiB for a "
					     "disk of that size",
					     copy->list[i].name);
	return 0;
}

static int check_room(struct cow_loop *loop, const struct cow_disk *target, struct cow_error *err)
{
	const struct cow_bitmap_place any = { .nr = 1 };
	return cow_bitmap_extension_verify(loop, core_of(target)->file, &any, err);
}

int cow_bitmap_copy_check(const struct cow_bitmap_copy *copy, struct cow_loop *loop,
			  const struct cow_disk *target, struct cow_error *err)
{
	int ret = 0;
	if (!copy->nr)
		return 0;
	if (core_of(target)->g.version < 3)
		ret = cow_error_set(err, -ENOTSUP, "images of version 2 cannot have bitmaps");
	if (!ret)
		ret = check_names(copy, loop, target, err);
	if (!ret)
		ret = check_sizes(copy, target, err);
	if (!ret)
		ret = check_room(loop, target, err);
	return ret;
}

/* ---- one ---- */

/* What `from` has, in a bitmap of a disk of another size. */
static int fit(struct cow_dirty *d, const struct cow_dirty *from)
{
	uint64_t bytes = cow_bitmap_data_bytes(from->size_bytes, from->granularity_bits);
	uint8_t *part = malloc(PART_BYTES);
	if (!part)
		return -ENOMEM;
	for (uint64_t at = 0; at < bytes; at += PART_BYTES)
		if (cow_dirty_store(from, at, part, PART_BYTES))
			cow_dirty_load(d, at, part, PART_BYTES);
	free(part);
	return 0;
}

/* Its content, of the source, for a disk of size_bytes. *d is initialised here. */
static int load(const struct cow_bitmap_copy *copy, struct cow_loop *loop,
		const struct cow_bitmap *b, uint64_t size_bytes, struct cow_dirty *d,
		struct cow_error *err)
{
	const struct cow_core *core = core_of(copy->source);
	struct cow_dirty source;
	int ret = cow_bitmap_read(loop, core->file, &core->header, b, &source, err);
	if (ret) {
		cow_error_prefix(err, "%s", copy->source->path);
		return ret;
	}
	if (source.size_bytes == size_bytes) {
		*d = source;
		return 0;
	}
	cow_assert(source.size_bytes < size_bytes);
	ret = cow_dirty_init(d, size_bytes, b->granularity_bits);
	if (!ret)
		ret = fit(d, &source);
	cow_dirty_fini(&source);
	return ret ? cow_error_set(err, ret, "bitmap '%.200s': %s", b->name, strerror(-ret)) : 0;
}

/* ---- all ---- */

struct batch {
	struct cow_dirty *contents; /* BATCH_MOST */
	unsigned nr;
	uint64_t bytes;
};

static int fill(const struct cow_bitmap_copy *copy, struct cow_loop *loop,
		struct cow_bitmap_edit *edit, struct batch *batch, uint32_t *next,
		struct cow_error *err)
{
	uint64_t size = edit->e.header.size_bytes;
	int ret = 0;
	while (*next < copy->nr && batch->nr < BATCH_MOST && batch->bytes < BATCH_BYTES && !ret) {
		const struct cow_bitmap *b = &copy->list[(*next)++];
		struct cow_dirty *d = &batch->contents[batch->nr];
		struct cow_bitmap_item *item;
		ret = load(copy, loop, b, size, d, err);
		if (ret)
			return ret;
		batch->nr++;
		batch->bytes += cow_bitmap_data_bytes(size, b->granularity_bits);
		ret = cow_bitmap_edit_add(edit, b->name, b->granularity_bits, &item);
		if (ret)
			return ret;
		item->b.flags = b->flags & COW_BITMAP_AUTO;
		item->content = d;
	}
	return ret;
}

static int copy_batch(const struct cow_bitmap_copy *copy, struct cow_loop *loop,
		      struct cow_file *file, struct batch *batch, uint32_t *next,
		      struct cow_error *err)
{
	struct cow_bitmap_edit edit;
	int ret = cow_bitmap_edit_open(&edit, loop, file, err);
	if (ret)
		return ret;
	ret = fill(copy, loop, &edit, batch, next, err);
	if (!ret)
		ret = cow_bitmap_edit_commit(&edit);
	cow_bitmap_edit_close(&edit);
	while (batch->nr)
		cow_dirty_fini(&batch->contents[--batch->nr]);
	batch->bytes = 0;
	return ret;
}

int cow_bitmap_copy_run(const struct cow_bitmap_copy *copy, struct cow_loop *loop,
			struct cow_file *file, struct cow_error *err)
{
	struct batch batch = { .contents = calloc(BATCH_MOST, sizeof(*batch.contents)) };
	int ret = batch.contents ? 0 : cow_error_no_memory(err);
	for (uint32_t next = 0; next < copy->nr && !ret;)
		ret = copy_batch(copy, loop, file, &batch, &next, err);
	free(batch.contents);
	return ret ? cow_error_set(err, ret, "its bitmaps cannot be written: %s", strerror(-ret))
		   : 0;
}
