/* SPDX-License-Identifier: MIT */
/* Gives a closed image another backing file's name and format. What the image shows is the caller's care. */
#ifndef COW_EDIT_BACKING_H
#define COW_EDIT_BACKING_H

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/loop/loop.h"

/*
 * name NULL: none, and format counts for nothing. One write of the header's sector: a crash leaves the
 * old name or the new one. -EFBIG: no room in the first cluster for that.
 */
COW_MUST_CHECK int cow_edit_backing(struct cow_loop *loop, struct cow_file *file, const char *name,
				    const char *format, struct cow_error *err);

#endif
