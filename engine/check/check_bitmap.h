/* SPDX-License-Identifier: MIT */
/* Marks what the dirty bitmaps refer to. */
#ifndef COW_CHECK_BITMAP_H
#define COW_CHECK_BITMAP_H

#include "engine/base/result.h"
#include "engine/check/checker.h"

COW_MUST_CHECK int cow_check_mark_bitmaps(struct cow_checker *c);

#endif
