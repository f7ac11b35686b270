/* SPDX-License-Identifier: MIT */
/*
 * The persistent dirty bitmaps of an image, copied into another that shows the same disk: name,
 * granularity, enabled or not, and what is dirty. The other disk may be larger; what is behind the end
 * of the first is clean.
 *
 * Memory: one bitmap, or several of 64 MiB in all; those are one change of the image.
 */
#ifndef COW_BITMAP_COPY_H
#define COW_BITMAP_COPY_H

#include "engine/base/result.h"
#include "engine/format/bitmap_directory.h"
#include "engine/tool/disk.h"

struct cow_bitmap_copy {
	/* the caller's */
	struct cow_disk *source; /* a qcow2 image's active disk */
	bool skip_broken;	 /* inconsistent ones are left out, with a warning; else refused */
	/* own */
	struct cow_bitmap *list; /* those that are copied */
	uint32_t nr;
};

/* Which there are: before anything is written to the target. */
COW_MUST_CHECK int cow_bitmap_copy_plan(struct cow_bitmap_copy *copy, struct cow_loop *loop,
					struct cow_error *err);
/* Can the target take them? It is open, for writing. */
COW_MUST_CHECK int cow_bitmap_copy_check(const struct cow_bitmap_copy *copy, struct cow_loop *loop,
					 const struct cow_disk *target, struct cow_error *err);
/* Into the target's file, which is closed otherwise, and writable. Durable when it returns 0. */
COW_MUST_CHECK int cow_bitmap_copy_run(const struct cow_bitmap_copy *copy, struct cow_loop *loop,
				       struct cow_file *file, struct cow_error *err);
/* Zeroed or planned. */
void cow_bitmap_copy_fini(struct cow_bitmap_copy *copy);

#endif
