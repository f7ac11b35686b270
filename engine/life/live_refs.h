/* SPDX-License-Identifier: MIT */
/* The refcount blocks of a change of snapshots. See live.h. */
#ifndef COW_LIVE_REFS_H
#define COW_LIVE_REFS_H

#include "engine/base/result.h"
#include "engine/life/live_state.h"

/* All refcount blocks that are not done, or not any more. */
COW_MUST_CHECK int cow_live_do_blocks(struct cow_live *x);
/* DELETE, afterwards: free what only the snapshot referred to. */
COW_MUST_CHECK int cow_live_free_victim(struct cow_live *x);

#endif
