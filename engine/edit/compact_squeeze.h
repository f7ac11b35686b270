/* SPDX-License-Identifier: MIT */
/* Compacting: what the steps leave, for tables are longer or free clusters more than they need be. */
#ifndef COW_COMPACT_SQUEEZE_H
#define COW_COMPACT_SQUEEZE_H

#include "engine/base/result.h"
#include "engine/edit/compact.h"

/*
 * Before the steps: the L1 table ends with the disk, or with the last L2 table if that is behind; the
 * refcount table with the last block that counts something. Only if that saves clusters.
 */
COW_MUST_CHECK int cow_compact_shorten_tables(struct cow_loop *loop, struct cow_file *file,
					      const struct cow_compact_options *options,
					      struct cow_compact_result *result,
					      struct cow_error *err);
/*
 * After the steps: each leaves as many free clusters as it wrote tables beside the old ones. So all data
 * goes below, and all tables that change for it behind the end of the file; then these back. Without the
 * room for it, it stays as it is.
 */
COW_MUST_CHECK int cow_compact_squeeze(struct cow_loop *loop, struct cow_file *file,
				       const struct cow_compact_options *options,
				       struct cow_compact_result *result, struct cow_error *err);

#endif
