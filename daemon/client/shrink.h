/* SPDX-License-Identifier: MIT */
/* Whether an attached disk may become smaller: what uses it must not lie behind its new end. */
#ifndef COW_SHRINK_H
#define COW_SHRINK_H

#include <stdint.h>

#include "engine/base/result.h"

/*
 * disk: "ublkb0". Its partitions end at `bytes` or before, and nobody uses the disk as a whole: from
 * now on nobody can, until *claim is closed (-1: its partitions are in use, which keeps others
 * off). Nothing of it is left in the page cache. 0 or an exit status, after telling what is in the way.
 */
COW_MUST_CHECK int cow_shrink_claim(const char *disk, uint64_t bytes, int *claim);

#endif
