/* SPDX-License-Identifier: MIT */
/*
 * Reads what the bitmap directory leads to: a bitmap's table and its content. Blocking; for the
 * control plane.
 */
#ifndef COW_BITMAP_DATA_H
#define COW_BITMAP_DATA_H

#include "engine/base/result.h"
#include "engine/bitmap/dirty.h"
#include "engine/format/bitmap_directory.h"
#include "engine/loop/loop.h"

/*
 * *table: b->table_entries entries in host byte order, each sound by itself (free). -EINVAL: it is not for a disk of this size.
 */
COW_MUST_CHECK int cow_bitmap_read_table(struct cow_loop *loop, struct cow_file *file,
					 const struct cow_header *h, const struct cow_bitmap *b,
					 uint64_t **table, struct cow_error *err);
/* The content, into d, which is initialised here. */
COW_MUST_CHECK int cow_bitmap_read(struct cow_loop *loop, struct cow_file *file,
				   const struct cow_header *h, const struct cow_bitmap *b,
				   struct cow_dirty *d, struct cow_error *err);

#endif
