/* SPDX-License-Identifier: MIT */
#include "engine/format/geometry.h"

#include "engine/base/math.h"

void cow_geometry_init(struct cow_geometry *g, const struct cow_header *h)
{
	uint32_t entry_bytes = (h->incompatible & QCOW2_INCOMPAT_EXTL2) ? 16 : 8;
	g->size_bytes = h->size_bytes;
	g->version = h->version;
	g->cluster_bits = h->cluster_bits;
	g->cluster_bytes = 1u << h->cluster_bits;
	g->l2_bits = h->cluster_bits - (entry_bytes == 16 ? 4 : 3);
	g->slice_bytes = (uint32_t)cow_min(g->cluster_bytes, COW_SLICE_MAX_BYTES);
	g->slice_entries = g->slice_bytes / entry_bytes;
	g->entry_bytes = entry_bytes;
	g->extended_l2 = entry_bytes == 16;
	g->compression_type = h->compression_type;
	g->data_file = h->incompatible & QCOW2_INCOMPAT_DATA_FILE;
	g->sub_bits = g->cluster_bits - (g->extended_l2 ? 5 : 0);
	g->sub_bytes = 1u << g->sub_bits;
	g->refcount_order = h->refcount_order;
	g->refs_per_slice = ((uint64_t)g->slice_bytes * 8) >> h->refcount_order;
	g->refs_per_block = ((uint64_t)g->cluster_bytes * 8) >> h->refcount_order;
	g->max_refcount = cow_refcount_max(h->refcount_order);
}
