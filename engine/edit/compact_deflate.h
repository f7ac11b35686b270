/* SPDX-License-Identifier: MIT */
/* Compacting: clusters of plain data become compressed ones, where that is shorter. See compact.h. */
#ifndef COW_COMPACT_DEFLATE_H
#define COW_COMPACT_DEFLATE_H

#include "engine/base/result.h"
#include "engine/edit/compact.h"

struct cow_edit;

/*
 * By windows of the file, upwards, each an edit: what is compressed and the rest of its data goes to free
 * clusters, first to the file's end, then to where the windows before it were; so free space lies
 * together, and moving does the rest.
 */
COW_MUST_CHECK int cow_compact_deflate(struct cow_loop *loop, struct cow_file *file,
				       const struct cow_compact_options *options,
				       struct cow_compact_result *result, struct cow_error *err);
/* Can it have compressed clusters? -ENOTSUP. */
COW_MUST_CHECK int cow_compact_deflate_verify(struct cow_edit *e);

#endif
