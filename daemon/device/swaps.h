/* SPDX-License-Identifier: MIT */
/* What the kernel swaps to. */
#ifndef COW_SWAPS_H
#define COW_SWAPS_H

#include <stdbool.h>

#include "engine/base/result.h"

/*
 * While paths lead somewhere; what it gives can be used later. A descriptor, for poll() with POLLPRI:
 * it tells that swap areas have come or gone since. -1: there is none.
 */
COW_MUST_CHECK int cow_swaps_open(void);
/* Is the disk ("ublkb0"), or a partition of it, a swap area now? */
bool cow_swaps_have(int fd, const char *disk);
/* The same of the text of /proc/swaps. */
bool cow_swaps_name(const char *text, const char *disk);

#endif
