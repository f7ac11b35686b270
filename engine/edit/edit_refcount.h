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
/* Places and writes the changed blocks and the table that names them. */
COW_MUST_CHECK int cow_edit_write_refcounts(struct cow_edit *e);
/* After the commit: punch what the old image used and the new one does not. */
COW_MUST_CHECK int cow_edit_punch_freed(struct cow_edit *e);

#endif
