/* SPDX-License-Identifier: MIT */
/*
 * The image's shape as constants and the arithmetic on it. Immutable while the image is open.
 *
 * Guest offsets (bytes on the virtual disk) and host offsets (bytes in the image file) are struct
 * types of their own, so that one cannot be passed for the other.
 */
#ifndef COW_GEOMETRY_H
#define COW_GEOMETRY_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/format/format.h"

struct cow_goff {
	uint64_t v;
};

struct cow_hoff {
	uint64_t v;
};

#define COW_SLICE_MAX_BYTES 4096u

struct cow_geometry {
	uint64_t size_bytes;
	uint32_t version;
	uint32_t cluster_bits, cluster_bytes;
	uint32_t l2_bits; /* log2 of the entries per L2 table */
	/* unit of the metadata caches: a piece of an L2 table or refcount block */
	uint32_t slice_bytes;
	uint32_t slice_entries; /* L2 entries per slice */
	uint32_t entry_bytes;	/* 8; 16 with extended L2 entries */
	bool extended_l2;
	uint8_t compression_type; /* QCOW2_COMPRESSION_* */
	bool data_file; /* guest data lies in an external file, each cluster at its guest offset */
	/* subcluster: 1/32 of a cluster with extended L2 entries, else the cluster */
	uint32_t sub_bits, sub_bytes;
	uint32_t refcount_order;
	uint64_t refs_per_slice; /* refcounts per slice */
	uint64_t refs_per_block; /* refcounts per refcount block (one cluster) */
	uint64_t max_refcount;
};

void cow_geometry_init(struct cow_geometry *g, const struct cow_header *h);

static inline uint64_t cow_in_cluster(const struct cow_geometry *g, uint64_t off)
{
	return off & (g->cluster_bytes - 1);
}

static inline uint64_t cow_l1_idx(const struct cow_geometry *g, struct cow_goff off)
{
	return off.v >> (g->cluster_bits + g->l2_bits);
}

/* Guest bytes that one L2 table maps. */
static inline uint64_t cow_l1_span_bytes(const struct cow_geometry *g)
{
	return 1ull << (g->cluster_bits + g->l2_bits);
}

/* The slice of off's L2 table that holds off's entry: its byte offset inside the table. */
static inline uint64_t cow_l2_slice_off(const struct cow_geometry *g, struct cow_goff off)
{
	uint64_t idx = (off.v >> g->cluster_bits) & ((1ull << g->l2_bits) - 1);
	return idx / g->slice_entries * g->slice_bytes;
}

/* Index of off's entry within its slice. */
static inline uint32_t cow_l2_slice_idx(const struct cow_geometry *g, struct cow_goff off)
{
	return (uint32_t)((off.v >> g->cluster_bits) & (g->slice_entries - 1));
}

/* Guest bytes that one slice maps. */
static inline uint64_t cow_slice_span_bytes(const struct cow_geometry *g)
{
	return (uint64_t)g->slice_entries << g->cluster_bits;
}

#endif
