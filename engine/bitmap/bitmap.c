/* SPDX-License-Identifier: MIT */
/* See bitmap.h. In this order: the commands: d is for new content, empty; reading. */
#include "engine/bitmap/bitmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bitmap/bitmap_data.h"
#include "engine/bitmap/bitmap_edit.h"
#include "engine/core/load.h"

static int refuse_inconsistent(const struct cow_bitmap *b, struct cow_error *err)
{
	if (!(b->flags & COW_BITMAP_IN_USE))
		return 0;
	return cow_error_set(
		err, -EINVAL,
		"bitmap '%.200s' is inconsistent, its image was not closed properly: remove it",
		b->name);
}

/* A consistent one by its name; NULL: the error is set. */
static struct cow_bitmap_item *need(struct cow_bitmap_edit *edit, const char *name)
{
	struct cow_bitmap_item *item = cow_bitmap_edit_find(edit, name);
	return item && !refuse_inconsistent(&item->b, edit->e.err) ? item : NULL;
}

static int read_item(struct cow_bitmap_edit *edit, const struct cow_bitmap_item *item,
		     struct cow_dirty *d)
{
	return cow_bitmap_read(edit->e.loop, edit->e.file, &edit->e.header, &item->b, d,
			       edit->e.err);
}

/* Too many enabled ones would all be lost at the first write (tracking.h). */
static int check_enabled(const struct cow_bitmap_edit *edit)
{
	struct cow_dirty_budget budget = { 0 };
	int ret = 0;
	for (uint32_t i = 0; i < edit->nr && !ret; i++) {
		const struct cow_bitmap *b = &edit->items[i].b;
		if ((b->flags & COW_BITMAP_AUTO) && !(b->flags & COW_BITMAP_IN_USE))
			ret = cow_dirty_budget_take(&budget, edit->e.header.size_bytes,
						    b->granularity_bits, edit->e.err);
	}
	return ret;
}

/* ---- the commands: d is for new content, empty ---- */

static int add(struct cow_bitmap_edit *edit, const struct cow_bitmap_change *c, struct cow_dirty *d)
{
	unsigned bits =
		c->granularity_bits ? c->granularity_bits : COW_BITMAP_DEFAULT_GRANULARITY_BITS;
	struct cow_bitmap_item *item;
	int ret = cow_bitmap_edit_add(edit, c->name, bits, &item);
	if (!ret && cow_dirty_init(d, edit->e.header.size_bytes, bits))
		ret = cow_error_no_memory(edit->e.err);
	if (ret)
		return ret;
	item->b.flags = c->disabled ? 0 : COW_BITMAP_AUTO;
	item->content = d;
	return c->disabled ? 0 : check_enabled(edit);
}

static int remove_one(struct cow_bitmap_edit *edit, const struct cow_bitmap_change *c,
		      struct cow_dirty *d)
{
	struct cow_bitmap_item *item = cow_bitmap_edit_find(edit, c->name);
	if (!item)
		return -ENOENT;
	cow_bitmap_edit_remove(edit, item);
	return 0;
}

static int clear(struct cow_bitmap_edit *edit, const struct cow_bitmap_change *c,
		 struct cow_dirty *d)
{
	struct cow_bitmap_item *item = need(edit, c->name);
	if (!item)
		return edit->e.err->code;
	if (cow_dirty_init(d, edit->e.header.size_bytes, item->b.granularity_bits))
		return cow_error_no_memory(edit->e.err);
	item->content = d;
	return 0;
}

static int enable(struct cow_bitmap_edit *edit, const struct cow_bitmap_change *c,
		  struct cow_dirty *d)
{
	struct cow_bitmap_item *item = need(edit, c->name);
	if (!item)
		return edit->e.err->code;
	if (c->command == COW_BITMAP_DISABLE) {
		item->b.flags &= ~COW_BITMAP_AUTO;
		return 0;
	}
	item->b.flags |= COW_BITMAP_AUTO;
	return check_enabled(edit);
}

static int merge_one(struct cow_bitmap_edit *edit, const char *name, struct cow_dirty *d)
{
	struct cow_bitmap_item *item = need(edit, name);
	struct cow_dirty source;
	if (!item)
		return edit->e.err->code;
	int ret = read_item(edit, item, &source);
	if (ret)
		return ret;
	cow_dirty_merge(d, &source);
	cow_dirty_fini(&source);
	return 0;
}

static int merge(struct cow_bitmap_edit *edit, const struct cow_bitmap_change *c,
		 struct cow_dirty *d)
{
	struct cow_bitmap_item *item = need(edit, c->name);
	int ret = item ? read_item(edit, item, d) : edit->e.err->code;
	for (unsigned i = 0; i < c->nr_sources && !ret; i++)
		ret = merge_one(edit, c->sources[i], d);
	if (!ret)
		item->content = d;
	return ret;
}

static const struct {
	const char *name;
	int (*run)(struct cow_bitmap_edit *edit, const struct cow_bitmap_change *c,
		   struct cow_dirty *d);
} commands[] = {
	[COW_BITMAP_ADD] = { "add", add },
	[COW_BITMAP_REMOVE] = { "remove", remove_one },
	[COW_BITMAP_CLEAR] = { "clear", clear },
	[COW_BITMAP_ENABLE] = { "enable", enable },
	[COW_BITMAP_DISABLE] = { "disable", enable },
	[COW_BITMAP_MERGE] = { "merge", merge },
};

#define NR_COMMANDS (sizeof(commands) / sizeof(commands[0]))

const char *cow_bitmap_command_name(enum cow_bitmap_command command)
{
	return commands[command].name;
}

int cow_bitmap_command_find(const char *name)
{
	for (size_t i = 0; i < NR_COMMANDS; i++)
		if (!strcmp(commands[i].name, name))
			return (int)i;
	return -1;
}

int cow_bitmap_run(struct cow_loop *loop, struct cow_file *file,
		   const struct cow_bitmap_change *change, struct cow_error *err)
{
	struct cow_bitmap_edit edit;
	struct cow_dirty content = { 0 };
	struct cow_error own = { 0 };
	int ret = cow_bitmap_edit_open(&edit, loop, file, &own);
	if (!ret) {
		ret = commands[change->command].run(&edit, change, &content);
		if (!ret)
			ret = cow_bitmap_edit_commit(&edit);
		cow_bitmap_edit_close(&edit);
	}
	cow_dirty_fini(&content);
	return ret ? cow_error_set(err, ret, "%s", own.code ? own.text : strerror(-ret)) : 0;
}

/* ---- reading ---- */

const char *cow_bitmap_state(uint32_t flags)
{
	if (flags & COW_BITMAP_IN_USE)
		return "inconsistent";
	return flags & COW_BITMAP_AUTO ? "enabled" : "disabled";
}

static int dump_from(struct cow_loop *loop, struct cow_file *file, const struct cow_header *h,
		     const struct cow_bitmap *list, uint32_t nr, const char *name,
		     struct cow_dirty *d, struct cow_error *err)
{
	for (uint32_t i = 0; i < nr; i++) {
		if (strcmp(list[i].name, name))
			continue;
		int ret = refuse_inconsistent(&list[i], err);
		return ret ? ret : cow_bitmap_read(loop, file, h, &list[i], d, err);
	}
	return cow_error_set(err, -ENOENT, "there is no bitmap '%.200s'", name);
}

int cow_bitmap_dump(struct cow_loop *loop, struct cow_file *file, const char *name,
		    struct cow_dirty *d, struct cow_error *err)
{
	struct cow_header h;
	struct cow_extensions ext;
	struct cow_bitmap *list = NULL;
	uint8_t *cluster;
	int ret = cow_load_header(loop, file, &h, &cluster, err);
	if (ret)
		return ret;
	ret = cow_extensions_decode(cluster, &h, &ext, err);
	free(cluster);
	if (!ret)
		ret = cow_load_bitmaps(loop, file, &h, &ext, &list, err);
	if (!ret)
		ret = dump_from(loop, file, &h, list, ext.has_bitmaps ? ext.nr_bitmaps : 0, name, d,
				err);
	free(list);
	return ret;
}
