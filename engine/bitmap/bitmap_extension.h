/* SPDX-License-Identifier: MIT */
/*
 * Which bitmap directory the header names, changed on disk at one blow: by a write that stays
 * within a sector. The image is closed, or frozen; whoever keeps a copy of the first sector reads
 * it anew afterwards.
 *
 *   there already   its 24 bytes in one sector: one write. Cut by a sector's end, or invalid so far: autoclear bit off | data |
 *                   autoclear bit on; a crash in between loses the bitmaps, nothing else
 *   not there yet   behind the last extension, where END stands. Room first: the backing file's name moves down | header's
 *                   pointer to it |. Then data and a new END behind it | type and length over the old END | autoclear bit
 *   removed         autoclear bit off | END over its type, if it is the last; else it stays, invalid
 */
#ifndef COW_BITMAP_EXTENSION_H
#define COW_BITMAP_EXTENSION_H

#include "engine/base/result.h"
#include "engine/format/format.h"
#include "engine/loop/loop.h"

/* nr 0: the image has no bitmaps any more. */
struct cow_bitmap_place {
	uint32_t nr;
	uint64_t directory_bytes, directory_off;
};

/*
 * Whether such a place can be written: -ENOSPC: no room in the first cluster. To be asked before
 * anything else is changed.
 */
COW_MUST_CHECK int cow_bitmap_extension_verify(struct cow_loop *loop, struct cow_file *file,
					       const struct cow_bitmap_place *place,
					       struct cow_error *err);
/*
 * Durable when it returns 0. -ENOTRECOVERABLE: nobody knows which of the two states is on disk;
 * another error: the header names what it did before, or that is invalid now.
 */
COW_MUST_CHECK int cow_bitmap_extension_write(struct cow_loop *loop, struct cow_file *file,
					      const struct cow_bitmap_place *place,
					      struct cow_error *err);

#endif
