/* SPDX-License-Identifier: MIT */
/*
 * Claims: guest ranges under change by a task that has to wait in the middle (copy on write, new L2
 * table). Others that would change the same range park on the claim and look again when it is
 * dropped.
 *
 * In-place I/O, and changes that are made within one step under the slice's lock, take no claim;
 * the latter ask cow_claims_busy(). Claim first, look at the mapping afterwards: then no change
 * made before the claim is missed.
 *
 * Locks: one per shard. A claim lies inside the range of one L2 slice (or names one L1 entry), so
 * that one shard sees all that can overlap.
 */
#ifndef COW_CLAIM_H
#define COW_CLAIM_H

#include <stdatomic.h>

#include "engine/base/mutex.h"
#include "engine/loop/task.h"

enum cow_claim_space {
	COW_CLAIM_CLUSTERS, /* [start, end) guest clusters */
	COW_CLAIM_L1,	    /* [start, end) L1 entries */
};

struct cow_claim {
	bool held;
	enum cow_claim_space space;
	uint64_t start, end;
	struct cow_claim *next COW_GUARDED_BY(claims);
	struct cow_waitlist waiters COW_GUARDED_BY(claims);
};

#define COW_CLAIMS_SHARDS 16

struct cow_claims_shard {
	struct cow_mutex_claims lock;
	struct cow_claim *claims COW_GUARDED_BY(claims);
	atomic_uint nr;
};

struct cow_claims {
	uint32_t cluster_shift; /* clusters per slice, log2 */
	struct cow_claims_shard shards[COW_CLAIMS_SHARDS];
};

void cow_claims_init(struct cow_claims *claims, uint32_t slice_entries);
void cow_claims_fini(struct cow_claims *claims);

/* True: claimed. False: the task is parked on who holds it. */
bool cow_claims_take(struct cow_claims *claims, struct cow_claim *claim, enum cow_claim_space space,
		     uint64_t start, uint64_t end, struct cow_task *task);
/* Drops it and wakes the waiters. */
void cow_claims_drop_held(struct cow_claims *claims, struct cow_claim *claim);
/* The same if it is held: most requests end without one. */
static inline void cow_claims_drop(struct cow_claims *claims, struct cow_claim *claim)
{
	if (claim->held)
		cow_claims_drop_held(claims, claim);
}
/* Is any cluster of the range claimed? Shard locks of the L2 cache may be held. */
bool cow_claims_overlaps(struct cow_claims *claims, enum cow_claim_space space, uint64_t start,
			 uint64_t end);
/* As before, and parks the task if so. */
bool cow_claims_busy(struct cow_claims *claims, enum cow_claim_space space, uint64_t start,
		     uint64_t end, struct cow_task *task);

#endif
