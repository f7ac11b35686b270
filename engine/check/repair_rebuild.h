/* SPDX-License-Identifier: MIT */
/* All refcounts written anew. */
#ifndef COW_REPAIR_REBUILD_H
#define COW_REPAIR_REBUILD_H

#include "engine/base/result.h"
#include "engine/check/checker.h"

COW_MUST_CHECK int cow_repair_rebuild(struct cow_checker *c, struct cow_error *err);

#endif
