/* SPDX-License-Identifier: MIT */
/*
 * Which parts of clusters of metadata writeback passes have written since somebody last looked: so
 * that a copy of the metadata, made beside the running device, can be kept up to date. Noted when
 * the pass is through: who takes the marks of a cluster and then reads what they tell either sees
 * what was written, or finds it marked again.
 */
#ifndef COW_WRITTEN_H
#define COW_WRITTEN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/result.h"

#define COW_WRITTEN_MAX_PARTS 64u

struct cow_written_entry {
	atomic_uint_least64_t cluster; /* host cluster + 1; 0: free */
	atomic_uint_least64_t parts;   /* a bit for each part of it */
};

struct cow_written {
	struct cow_written_entry *entries; /* open addressing; entries are never taken out */
	uint64_t nr;			   /* a power of two */
	unsigned cluster_bits, part_bits;
	atomic_uint_least64_t used;
	atomic_bool full; /* from then on everything counts as written */
};

/*
 * Parts are slices, or what makes 64 parts a cluster. Room for marks at nr_clusters clusters, 32
 * bytes each at most. 0 or -ENOMEM.
 */
COW_MUST_CHECK int cow_written_init(struct cow_written *w, unsigned cluster_bits,
				    unsigned slice_bits, uint64_t nr_clusters);
void cow_written_fini(struct cow_written *w);
/* [off, off+bytes) of the host file, within a cluster. */
void cow_written_note(struct cow_written *w, uint64_t off, uint64_t bytes);
bool cow_written_test(const struct cow_written *w, uint64_t cluster);
/* The cluster's parts that were marked; they are not any more. */
uint64_t cow_written_take(struct cow_written *w, uint64_t cluster);

static inline uint32_t cow_written_parts(const struct cow_written *w)
{
	return 1u << (w->cluster_bits - w->part_bits);
}

static inline uint64_t cow_written_all(const struct cow_written *w)
{
	return UINT64_MAX >> (COW_WRITTEN_MAX_PARTS - cow_written_parts(w));
}

#endif
