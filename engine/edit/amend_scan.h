/* SPDX-License-Identifier: MIT */
/* What version 2 cannot say, looked for in an image's tables. */
#ifndef COW_AMEND_SCAN_H
#define COW_AMEND_SCAN_H

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/format/format.h"
#include "engine/loop/loop.h"

/* -ENOTSUP if a cluster of the disk or of a snapshot has the zero flag, or is compressed by zstd. */
COW_MUST_CHECK int cow_amend_refuse_clusters(struct cow_loop *loop, struct cow_file *file,
					     const struct cow_header *h, struct cow_error *err);

#endif
