/* SPDX-License-Identifier: MIT */
/*
 * Where everything of a new image goes, worked out before a byte is written.
 *
 * cluster 0 | refcount table | refcount blocks | L1 | L2 tables | data     (the last two only when preallocated)
 */
#ifndef COW_CREATE_LAYOUT_H
#define COW_CREATE_LAYOUT_H

#include <stdint.h>

#include "engine/create.h"
#include "engine/format.h"

struct cow_create_layout {
	struct cow_header header;
	uint64_t refblocks_off, nr_refblocks;
	uint64_t l1_bytes;
	uint64_t l2_off, nr_l2_tables;       /* 0 tables when not preallocated */
	uint64_t crypto_off, crypto_bytes;   /* 0 bytes when not encrypted; whole clusters are taken */
	uint64_t data_off, nr_data_clusters;
	uint64_t nr_clusters;                /* all of them: each has refcount 1 */
};

/* Checks the options against each other and the format's limits. size_bytes is a multiple of 512. */
int cow_create_layout_init(struct cow_create_layout *l, const struct cow_create_options *options,
			   uint64_t size_bytes, struct cow_error *err);

/* Header, extensions and backing file name -> the first cluster (zeroed by the caller). Sets the name's place in l->header. */
int cow_create_first_cluster(struct cow_create_layout *l, const struct cow_create_options *options,
			     uint8_t *cluster, struct cow_error *err);

#endif
