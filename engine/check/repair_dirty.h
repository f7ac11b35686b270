/* SPDX-License-Identifier: MIT */
/* An image that was not closed properly, before it is changed. */
#ifndef COW_REPAIR_DIRTY_H
#define COW_REPAIR_DIRTY_H

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/format/header.h"
#include "engine/loop/loop.h"

/* Rebuilds the refcounts; the header is to be loaded anew. path: the image's name in the log. */
COW_MUST_CHECK int cow_repair_dirty(struct cow_loop *loop, struct cow_file *file, const char *path,
				    struct cow_error *err);
/* -EROFS if the header still says that it is dirty. */
COW_MUST_CHECK int cow_repair_dirty_verify(const struct cow_header *h, struct cow_error *err);

#endif
