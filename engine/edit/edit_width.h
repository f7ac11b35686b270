/* SPDX-License-Identifier: MIT */
/* Other refcount bits, as an edit (edit.h): new blocks and a new table for all that counts. */
#ifndef COW_EDIT_WIDTH_H
#define COW_EDIT_WIDTH_H

#include "engine/base/result.h"
#include "engine/edit/edit.h"

/*
 * A closed image gets refcounts of 1 << order bits. All of them are in memory meanwhile: a new block for each, and a
 * bit for each cluster. -ERANGE: too narrow, the cluster is named; -EFBIG: the table would be larger than 8 MiB;
 * -EINVAL: version 2, which has 16.
 */
COW_MUST_CHECK int cow_edit_width(struct cow_loop *loop, struct cow_file *file, uint32_t order,
				  struct cow_error *err);

#endif
