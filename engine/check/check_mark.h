/* SPDX-License-Identifier: MIT */
/* Marks the metadata that the header and the L1 tables lead to. */
#ifndef COW_CHECK_MARK_H
#define COW_CHECK_MARK_H

#include "engine/base/result.h"
#include "engine/check/checker.h"

/* Header, tables, bitmaps, snapshots: what lies at fixed places. */
COW_MUST_CHECK int cow_check_mark_fixed(struct cow_checker *c);
/* The L1 tables, of the disk and of the snapshots; collects the L2 tables. */
COW_MUST_CHECK int cow_check_mark_l1_tables(struct cow_checker *c);

#endif
