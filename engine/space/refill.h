/* SPDX-License-Identifier: MIT */
/* The task that fills a queue's reservation; see alloc.h. */
#ifndef COW_REFILL_H
#define COW_REFILL_H

#include "engine/space/reserve.h"

/* After cow_reserve_init(). */
void cow_refill_init(struct cow_reserve *reserve);

#endif
