/* SPDX-License-Identifier: MIT */
/*
 * Where everything of a new image goes, worked out before a byte is written.
 *
 * cluster 0 | refcount table | refcount blocks | L1 | L2 tables | LUKS header | data
 *
 * L2 tables and data only when preallocated, the LUKS header when encrypted. With an external data
 * file the data lies there, each cluster at its guest offset.
 */
#ifndef COW_CREATE_LAYOUT_H
#define COW_CREATE_LAYOUT_H

#include <stdint.h>

#include "engine/base/result.h"
#include "engine/create/create.h"
#include "engine/format/format.h"

struct cow_create_layout {
	struct cow_header header;
	uint64_t refblocks_off, nr_refblocks;
	uint64_t l1_bytes;
	uint64_t l2_off, nr_l2_tables; /* 0 tables when not preallocated */
	/* 0 bytes when not encrypted; whole clusters are taken */
	uint64_t crypto_off, crypto_bytes;
	uint64_t data_off, nr_data_clusters; /* preallocated */
	bool external;			     /* the data is in a file of its own, data_off 0 */
	bool backed;			     /* what is not written is the backing file's */
	uint64_t nr_clusters;		     /* all of the image's file: each has refcount 1 */
};

/*
 * Checks the options against each other and the format's limits. size_bytes is a multiple of 512.
 */
COW_MUST_CHECK int cow_create_layout_init(struct cow_create_layout *l,
					  const struct cow_create_options *options,
					  uint64_t size_bytes, struct cow_error *err);
/* The same layout with so many L2 tables and clusters of data: where they lie, and what counts them. */
COW_MUST_CHECK int cow_create_layout_take(struct cow_create_layout *l, uint64_t nr_l2_tables,
					  uint64_t nr_data_clusters, struct cow_error *err);

#endif
