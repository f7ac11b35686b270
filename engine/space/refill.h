/* SPDX-License-Identifier: MIT */
/* The task that fills a queue's reservation; see alloc.h. */
#ifndef COW_REFILL_H
#define COW_REFILL_H

#include "engine/space/alloc.h"

void cow_refill_init(struct cow_reserve *reserve);
void cow_refill_start(struct cow_reserve *reserve, struct cow_loop *loop);
extern const struct cow_step cow_refill_unwind;
/* Where the growth of the refcount table returns to. */
enum cow_next cow_refill_scan_again(struct cow_reserve *reserve);

/* Goes on at next when the file reaches to end. Baton held. */
enum cow_next cow_refill_extend(struct cow_reserve *reserve, uint64_t end,
				const struct cow_step *next);

/*
 * reftable_grow.c: make room for more refcount blocks; baton held. Ends with
 * cow_refill_scan_again().
 */
enum cow_next cow_reftable_grow(struct cow_reserve *reserve);

#endif
