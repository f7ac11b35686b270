/* SPDX-License-Identifier: MIT */
/* The snapshot table put right. */
#ifndef COW_REPAIR_SNAPSHOTS_H
#define COW_REPAIR_SNAPSHOTS_H

#include "engine/base/result.h"
#include "engine/check/check.h"

/*
 * Before a round: puts the snapshot table right, if it cannot be decoded or names L1 tables that are
 * none.
 */
COW_MUST_CHECK int cow_repair_snapshots(struct cow_loop *loop, struct cow_file *file,
					const struct cow_check_options *options,
					struct cow_error *err);

#endif
