/* SPDX-License-Identifier: MIT */
/*
 * A small qcow2 image made byte by byte, so that a test knows where everything is. Clusters of 512
 * bytes, 64 guest clusters that hold their own number plus one, a snapshot of the same content; the
 * active image has overwritten guest cluster 0 since.
 *
 * cluster 0 header | 1 refcount table | 2.. refcount blocks | L1 | snapshot's L1 | snapshot table |
 * L2 | snapshot's L2 | data
 */
#ifndef COW_TEST_TINY_IMAGE_H
#define COW_TEST_TINY_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#define TINY_CLUSTER 512u
#define TINY_GUEST_CLUSTERS 64u
#define TINY_MAX_BYTES (256u << 10)

struct tiny_image {
	uint8_t bytes[TINY_MAX_BYTES];
	uint64_t size;
	uint32_t order; /* refcount_order, 1..6: two references must fit */
	uint64_t reftable, refblocks, nr_refblocks, l1, snapshot_l1, snapshots, l2, snapshot_l2,
		data;
};

void tiny_image_build(struct tiny_image *t, uint32_t order);

/* Makes a freshly built image of order 4 one of version 2. */
void tiny_image_downgrade(struct tiny_image *t);

/* Where a cluster's refcount lies: the block, and the index in it. */
uint64_t tiny_refblock_of(const struct tiny_image *t, uint64_t cluster, uint64_t *idx);

/*
 * Follows the header, the snapshot table and both L1 tables; true if every guest cluster reads as
 * it should.
 */
bool tiny_image_reads(const uint8_t *bytes, uint64_t size);
/* The active image only. */
bool tiny_image_active_reads(const uint8_t *bytes, uint64_t size);

#endif
