/* SPDX-License-Identifier: MIT */
/* Changes of a running image, from its control thread; loop is the caller's own. */
#ifndef COW_LIVE_BITMAP_H
#define COW_LIVE_BITMAP_H

#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/bitmap/bitmap.h"

struct cow_image;

/*
 * Freezes it, stores its bitmaps, runs the change on the file, starts anew; see
 * cow_image_change_frozen().
 */
COW_MUST_CHECK int cow_image_change_bitmaps(struct cow_image *image, struct cow_loop *loop,
					    const struct cow_bitmap_change *change,
					    uint64_t *pause_ns, struct cow_error *err);

/* What is dirty now, of an enabled one; else what the file says. *d is initialised here. */
COW_MUST_CHECK int cow_image_dump_bitmap(struct cow_image *image, struct cow_loop *loop,
					 const char *name, struct cow_dirty *d,
					 struct cow_error *err);
/*
 * The directory; those that are kept up to date do not show as in use. *list: *nr entries (free).
 */
COW_MUST_CHECK int cow_image_list_bitmaps(struct cow_image *image, struct cow_loop *loop,
					  struct cow_bitmap **list, uint32_t *nr,
					  struct cow_error *err);

#endif
