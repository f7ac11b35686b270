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

/* Options -> the header's features and widths; checks the options against each other. */
COW_MUST_CHECK int cow_create_load_options(struct cow_header *h, const struct cow_create_options *o,
					   struct cow_error *err);
/* What is to be preallocated, including what other options imply. */
enum cow_preallocation cow_create_preallocation(const struct cow_create_options *o);

/*
 * Checks the options against each other and the format's limits. size_bytes is a multiple of 512.
 */
COW_MUST_CHECK int cow_create_layout_init(struct cow_create_layout *l,
					  const struct cow_create_options *options,
					  uint64_t size_bytes, struct cow_error *err);

/*
 * Header, extensions and backing file name -> the first cluster (zeroed by the caller). Sets the
 * name's place in l->header.
 */
COW_MUST_CHECK int cow_create_first_cluster(struct cow_create_layout *l,
					    const struct cow_create_options *options,
					    uint8_t *cluster, struct cow_error *err);

/* ---- create_backing.c ---- */

/* As asked for, or the backing file's. */
COW_MUST_CHECK int cow_create_find_size(struct cow_host *host, struct cow_loop *loop,
					const char *path, const struct cow_create_options *o,
					uint64_t *size_bytes, struct cow_error *err);

/* ---- create_tables.c ---- */

/*
 * Everything but the first cluster, into files that read as zeros (image, and data when it is
 * external: else NULL).
 */
COW_MUST_CHECK int cow_create_write_tables(struct cow_loop *loop, struct cow_file *image,
					   struct cow_file *data, const struct cow_create_layout *l,
					   const struct cow_create_options *o,
					   struct cow_error *err);

#endif
