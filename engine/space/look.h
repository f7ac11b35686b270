/* SPDX-License-Identifier: MIT */
/*
 * A refill looks at refcount blocks that nobody knows (freemap.h): some whole blocks, read from the
 * file at once. What the cache holds may be newer: that only matters to a hint if a refcount fell
 * since, and what falls is told to the free map when it may be used.
 */
#ifndef COW_LOOK_H
#define COW_LOOK_H

#include "engine/base/result.h"
#include "engine/space/reserve.h"

COW_MUST_CHECK int cow_look_init(struct cow_alloc *alloc);
void cow_look_fini(struct cow_alloc *alloc);

/* How many refcount blocks there are to be looked at: those below where the file ends. */
uint64_t cow_look_nr_blocks(const struct cow_alloc *alloc) COW_REQUIRES(alloc, alloc->lock);
/* Baton held. Goes on at next when the blocks are known. */
enum cow_next cow_look_start(struct cow_reserve *reserve, const struct cow_step *next);

#endif
