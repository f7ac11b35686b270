/* SPDX-License-Identifier: MIT */
/* The L2 tables of a change of snapshots. See live.h. */
#ifndef COW_LIVE_TABLES_H
#define COW_LIVE_TABLES_H

#include "engine/base/result.h"
#include "engine/life/live_state.h"

/* All L2 tables that are not done, or not any more. */
COW_MUST_CHECK int cow_live_do_tables(struct cow_live *x);
/* DELETE: what the snapshot refers to. */
COW_MUST_CHECK int cow_live_count_victim(struct cow_live *x);

#endif
