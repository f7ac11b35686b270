/* SPDX-License-Identifier: MIT */
/* Takes away all that an image itself holds, so that its backing file shows. Snapshots stay. */
#ifndef COW_EMPTY_H
#define COW_EMPTY_H

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/loop/loop.h"

/*
 * One change of the whole image (edit.h): a crash leaves it as it was or empty. file is writable and
 * locked. -ENOTSUP: an external data file.
 */
COW_MUST_CHECK int cow_empty(struct cow_loop *loop, struct cow_file *file, struct cow_error *err);

#endif
