/* SPDX-License-Identifier: MIT */
/*
 * A change of a closed image's bitmaps as a whole: which there are, their flags, their content.
 * Nothing that the image on disk refers to is written to: new content, tables and the directory go
 * to free clusters, and all of it takes effect when the header names the new directory.
 *
 *   content, tables, directory, refcounts with old and new counted | header extension | refcounts without the old; punch
 *
 * The first and the last step are edits of their own (edit.h). A crash between them leaks
 * clusters, nothing else. States: open
 * (memory only) -> committed; cow_bitmap_edit_close() in any state.
 */
#ifndef COW_BITMAP_EDIT_H
#define COW_BITMAP_EDIT_H

#include "engine/base/result.h"
#include "engine/bitmap/dirty.h"
#include "engine/format/bitmap_directory.h"
#include "engine/edit/edit.h"

/* A table on disk, that leads to data. entries 0: none. */
struct cow_bitmap_table {
	uint64_t off;
	uint32_t entries;
};

struct cow_bitmap_item {
	struct cow_bitmap b; /* as it will be; the table's place is filled in by the commit */
	/* new content, the caller's until the commit; NULL: it stays */
	const struct cow_dirty *content;
	struct cow_bitmap_table old; /* as it stands */
};

struct cow_bitmap_edit {
	struct cow_edit e;
	struct cow_bitmap_item *items;
	uint32_t nr;
	struct cow_bitmap_table *dropped; /* tables of bitmaps that are removed */
	uint32_t nr_dropped;
	bool had; /* there was a valid directory */
};

/*
 * Refuses what cannot be changed, as cow_edit_open(). What an invalid extension (autoclear bit
 * clear) names is forgotten, not freed: its clusters may be in use by now.
 */
COW_MUST_CHECK int cow_bitmap_edit_open(struct cow_bitmap_edit *edit, struct cow_loop *loop,
					struct cow_file *file, struct cow_error *err);
void cow_bitmap_edit_close(struct cow_bitmap_edit *edit);

/* NULL: none of that name; the error is set. */
struct cow_bitmap_item *cow_bitmap_edit_find(struct cow_bitmap_edit *edit, const char *name);
/* A new one, without content. Checks name and limits. Items move. */
COW_MUST_CHECK int cow_bitmap_edit_add(struct cow_bitmap_edit *edit, const char *name,
				       unsigned granularity_bits, struct cow_bitmap_item **out);
void cow_bitmap_edit_remove(struct cow_bitmap_edit *edit, struct cow_bitmap_item *item);

/*
 * -ENOTRECOVERABLE: nobody knows which of the two states is on disk; both are sound. Another error:
 * the old one is, or no bitmap is valid any more.
 */
COW_MUST_CHECK int cow_bitmap_edit_commit(struct cow_bitmap_edit *edit);

#endif
