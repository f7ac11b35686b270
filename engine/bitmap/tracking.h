/* SPDX-License-Identifier: MIT */
/*
 * The dirty bitmaps of an image that is open for writing. Those that are enabled are kept in memory
 * and say what was changed; on disk they are marked as in use meanwhile, so that after a crash
 * nobody believes them.
 *
 *   start    load | IN_USE set in the directory |            then requests may change the disk
 *   mark     first thing of a request that changes the disk
 *   store    everything else is durable: new content (bitmap_edit.h), IN_USE cleared, at one blow; without room for that:
 *            content and tables in place | IN_USE cleared
 *
 * With memory that outlives the process (meta/outlive.h) they lie there: who comes after one that
 * died takes what it left for those that it finds in use.
 *
 * Disabled ones stay as they are on disk, valid. Inconsistent ones (IN_USE at start) stay as well,
 * and are used for nothing. If the directory or an enabled bitmap cannot be used at all, nothing is
 * kept: the first write makes the bitmaps invalid, as for a program that knows none (autoclear bit
 * 0).
 */
#ifndef COW_TRACKING_H
#define COW_TRACKING_H

#include "engine/base/result.h"
#include "engine/bitmap/bitmap.h"
#include "engine/meta/meta.h"

struct cow_tracked {
	struct cow_dirty dirty;
	char *name;
	uint32_t flags;	    /* in the directory, without IN_USE */
	uint64_t flags_off; /* of the flags word in the file */
	uint64_t entry_off; /* in the directory */
};

struct cow_tracking {
	struct cow_outlive *outlive; /* NULL: they die with the process */
	bool kept;		     /* the image's bitmaps stay valid while it is written to */
	unsigned nr;
	struct cow_tracked *list;
};

/* What the file says of bitmaps. */
struct cow_tracking_directory {
	struct cow_header header;
	struct cow_extensions ext;
	struct cow_bitmap *list; /* owned */
	uint32_t nr;
};

/* free(dir->list), also after an error. */
COW_MUST_CHECK int cow_tracking_load_directory(struct cow_tracking_directory *dir,
					       struct cow_loop *loop, struct cow_file *file,
					       struct cow_error *err);

/* What a process that died has left of its bitmaps. */
struct cow_tracking_left {
	struct cow_tracked *list; /* flags, entry_off and dirty */
	unsigned nr;
};

/* Copies it from the memfd of shared memory, which can be used again then. 0 or -ENOMEM. */
COW_MUST_CHECK int cow_tracking_take_left(struct cow_tracking_left *left, int fd,
					  uint64_t size_bytes);
/* Also of a zeroed one. */
void cow_tracking_left_fini(struct cow_tracking_left *left);

/*
 * outlive, left: NULL, or where they shall lie, and what was left. Nothing here fails the image: what
 * goes wrong is logged, and `kept` is false, as core's kept_autoclear says then.
 */
void cow_tracking_start(struct cow_tracking *t, struct cow_loop *loop, struct cow_core *core,
			struct cow_outlive *outlive, const struct cow_tracking_left *left);
/*
 * The file is as if the image were closed. After an error the bitmaps are inconsistent on disk;
 * -ENOTRECOVERABLE: or they are not, and the disk must not be changed any more.
 */
COW_MUST_CHECK int cow_tracking_store(struct cow_tracking *t, struct cow_loop *loop,
				      struct cow_file *file, struct cow_error *err);
/*
 * Where there is no room for new content: the clusters that a bitmap has already take it, and a
 * part of it that has none is dirty as a whole, which costs nothing. Coarse, but nothing is missed.
 * Only at the end: memory knows better.
 */
COW_MUST_CHECK int cow_tracking_store_in_place(struct cow_tracking *t, struct cow_meta *meta,
					       struct cow_loop *loop, struct cow_error *err);
void cow_tracking_fini(struct cow_tracking *t);

static inline void cow_tracking_mark(struct cow_tracking *t, uint64_t off, uint64_t bytes)
{
	for (unsigned i = 0; i < t->nr; i++)
		cow_dirty_set(&t->list[i].dirty, off, bytes);
}

#endif
