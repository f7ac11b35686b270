/* SPDX-License-Identifier: MIT */
/* The refcounts on disk against what was marked. */
#ifndef COW_CHECK_REFCOUNT_H
#define COW_CHECK_REFCOUNT_H

#include "engine/base/result.h"
#include "engine/check/checker.h"

COW_MUST_CHECK int cow_check_load_reftable(struct cow_checker *c);
/* Counts what differs; the second puts it right in place. */
COW_MUST_CHECK int cow_check_compare(struct cow_checker *c);
COW_MUST_CHECK int cow_check_fix_refcounts(struct cow_checker *c);

#endif
