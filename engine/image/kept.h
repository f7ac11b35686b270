/* SPDX-License-Identifier: MIT */
/*
 * Host clusters that stay a guest cluster's although what they hold is no longer its data: zeroed
 * with NOUNMAP, subclusters, external data files. A write in place that began before may still be on
 * its way there. Who fills such a cluster anew waits for it, or its data would show up later, behind
 * the zeros: freed clusters have the quarantine for that.
 *
 * Noted is when a cluster was zeroed last, or another one of the same bucket: an epoch, see
 * space/epoch.h. Memory: 2 KiB.
 */
#ifndef COW_KEPT_H
#define COW_KEPT_H

#include <stdatomic.h>
#include <stdint.h>

#define COW_KEPT_BUCKETS 256u

struct cow_kept {
	atomic_uint_least64_t epochs[COW_KEPT_BUCKETS]; /* 0: never */
};

/* Under the slice's lock, with the entry changed: epoch is now. cluster: of the guest. */
static inline void cow_kept_note(struct cow_kept *kept, uint64_t cluster, uint64_t epoch)
{
	atomic_uint_least64_t *last = &kept->epochs[cluster % COW_KEPT_BUCKETS];
	uint64_t was = atomic_load(last);
	while (was < epoch && !atomic_compare_exchange_weak(last, &was, epoch))
		;
}

/* The last one of nr clusters, seen by who has looked at their entries. */
static inline uint64_t cow_kept_epoch(struct cow_kept *kept, uint64_t cluster, uint64_t nr)
{
	uint64_t last = 0;
	for (uint64_t i = 0; i < nr && i < COW_KEPT_BUCKETS; i++) {
		uint64_t epoch = atomic_load(&kept->epochs[(cluster + i) % COW_KEPT_BUCKETS]);
		last = epoch > last ? epoch : last;
	}
	return last;
}

#endif
