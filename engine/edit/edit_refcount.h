/* SPDX-License-Identifier: MIT */
/* Refcounts of an edit. */
#ifndef COW_EDIT_REFCOUNT_H
#define COW_EDIT_REFCOUNT_H

#include "engine/base/result.h"
#include "engine/edit/edit.h"

COW_MUST_CHECK int cow_edit_load_refcounts(struct cow_edit *e);
void cow_edit_free_refcounts(struct cow_edit *e);
COW_MUST_CHECK int cow_edit_refcount(struct cow_edit *e, uint64_t cluster, uint64_t *count);
/*
 * Every cluster that [off, off+bytes) touches: plus delta. All must be counted already; -ERANGE:
 * would not fit.
 */
COW_MUST_CHECK int cow_edit_count(struct cow_edit *e, uint64_t off, uint64_t bytes, int delta);
/* nr consecutive clusters, free in the image as it stands and as it will be; refcount 1. */
COW_MUST_CHECK int cow_edit_alloc(struct cow_edit *e, uint64_t nr, uint64_t *off);
/* The same below cluster `end`. *off 0: there are none. */
COW_MUST_CHECK int cow_edit_alloc_below(struct cow_edit *e, uint64_t nr, uint64_t end,
					uint64_t *off);
/* That cluster, if it is as free. */
COW_MUST_CHECK int cow_edit_alloc_at(struct cow_edit *e, uint64_t cluster, bool *taken);
/* What was allocated one by one, and not written to, is free again. */
COW_MUST_CHECK int cow_edit_give_back(struct cow_edit *e, uint64_t off, uint64_t bytes);
/* Of the image as it will be: clusters that count, and the number of the last one plus 1. */
COW_MUST_CHECK int cow_edit_usage(struct cow_edit *e, uint64_t *used, uint64_t *end);
/* Of a checked image: what counts from that cluster on is referred to by nothing. */
COW_MUST_CHECK int cow_edit_forget(struct cow_edit *e, uint64_t from);
/* The blocks at host offset `from` and behind will have new places, as those that change have. */
COW_MUST_CHECK int cow_edit_move_blocks(struct cow_edit *e, uint64_t from);
/* Blocks that count nothing go, as does the room in the table for them. All else is done before. */
COW_MUST_CHECK int cow_edit_drop_blocks(struct cow_edit *e);
/* Of the table as it will be, before anything is placed. */
uint64_t cow_edit_reftable_clusters(const struct cow_edit *e);
/* Before the commit, if that is to depend on it: from now on nothing counts otherwise. */
COW_MUST_CHECK int cow_edit_place_refcounts(struct cow_edit *e);
/* Places and writes the changed blocks and the table that names them. */
COW_MUST_CHECK int cow_edit_write_refcounts(struct cow_edit *e);
/* After the commit: punch what the old image used and the new one does not. */
COW_MUST_CHECK int cow_edit_punch_freed(struct cow_edit *e);
/* Without a commit: punch what was taken, for nobody leads there. */
COW_MUST_CHECK int cow_edit_punch_taken(struct cow_edit *e);

#endif
