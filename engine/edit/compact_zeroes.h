/* SPDX-License-Identifier: MIT */
/* Compacting: clusters of data that hold only zeros are given up. See compact.h. */
#ifndef COW_COMPACT_ZEROES_H
#define COW_COMPACT_ZEROES_H

#include "engine/base/result.h"
#include "engine/edit/compact.h"

/*
 * All of them in one edit, so that those who share a cluster give it up together. They read as zeros as
 * before: zero clusters, or none where no backing file would show. Left as it is: encrypted and
 * compressed data, an external data file's, and version 2 over a backing file.
 */
COW_MUST_CHECK int cow_compact_zeroes(struct cow_loop *loop, struct cow_file *file,
				      const struct cow_compact_options *options,
				      struct cow_compact_result *result, struct cow_error *err);

#endif
