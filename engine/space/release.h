/* SPDX-License-Identifier: MIT */
/* The task that empties the quarantine; see quarantine.h for what it does and why in that order. */
#ifndef COW_RELEASE_H
#define COW_RELEASE_H

#include "engine/space/quarantine.h"

/* After cow_quarantine_init(). alloc: hears of what may be used again. */
void cow_release_init(struct cow_quarantine *q, struct cow_meta *meta, struct cow_alloc *alloc);

#endif
