/* SPDX-License-Identifier: MIT */
/* COPIED flags of the active tables; statistics. */
#ifndef COW_CHECK_COPIED_H
#define COW_CHECK_COPIED_H

#include "engine/base/result.h"
#include "engine/check/checker.h"

COW_MUST_CHECK int cow_check_copied(struct cow_checker *c);

#endif
