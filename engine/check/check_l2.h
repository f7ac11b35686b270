/* SPDX-License-Identifier: MIT */
/* Marks what the L2 tables refer to. */
#ifndef COW_CHECK_L2_H
#define COW_CHECK_L2_H

#include "engine/base/result.h"
#include "engine/check/checker.h"

/* The L2 tables and what they point to. */
COW_MUST_CHECK int cow_check_mark_l2_tables(struct cow_checker *c);
/* Puts right what can be put right in them. */
COW_MUST_CHECK int cow_check_repair_l2_tables(struct cow_checker *c);

#endif
