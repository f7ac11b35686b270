/* SPDX-License-Identifier: MIT */
#include "engine/create/create_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/create/create_features.h"
#include "engine/crypt/luks_format.h"

static uint64_t div_up(uint64_t n, uint64_t unit)
{
	return n / unit + (n % unit != 0);
}

/* ---- places ---- */

/* The refcount structures count themselves: grow them until they cover everything. */
static void size_refcounts(struct cow_create_layout *l, uint64_t others)
{
	struct cow_header *h = &l->header;
	uint64_t refs_per_block = (uint64_t)cow_cluster_bytes(h) * 8 >> h->refcount_order;
	uint64_t table = 1, blocks = 1;
	for (;;) {
		uint64_t total = others + table + blocks;
		uint64_t need_blocks = div_up(total, refs_per_block);
		uint64_t need_table = div_up(need_blocks * 8, cow_cluster_bytes(h));
		if (need_blocks <= blocks && need_table <= table)
			break;
		blocks = need_blocks > blocks ? need_blocks : blocks;
		table = need_table > table ? need_table : table;
	}
	l->nr_refblocks = blocks;
	l->nr_clusters = others + table + blocks;
	cow_assert(blocks * refs_per_block >= l->nr_clusters);
	/*
	 * A table over the limit is refused by the caller; here it must only not be cut to 32 bits.
	 */
	h->reftable_clusters = table > UINT32_MAX ? UINT32_MAX : (uint32_t)table;
}

static void place(struct cow_create_layout *l, uint64_t l1_clusters)
{
	struct cow_header *h = &l->header;
	uint64_t at = 1;
	h->reftable_off = at << h->cluster_bits;
	at += h->reftable_clusters;
	l->refblocks_off = at << h->cluster_bits;
	at += l->nr_refblocks;
	h->l1_off = at << h->cluster_bits;
	at += l1_clusters;
	l->l2_off = at << h->cluster_bits;
	at += l->nr_l2_tables;
	l->crypto_off = at << h->cluster_bits;
	at += div_up(l->crypto_bytes, cow_cluster_bytes(h));
	l->data_off = l->external ? 0 : at << h->cluster_bits;
	cow_assert(at + (l->external ? 0 : l->nr_data_clusters) == l->nr_clusters);
}

int cow_create_layout_take(struct cow_create_layout *l, uint64_t nr_l2_tables,
			   uint64_t nr_data_clusters, struct cow_error *err)
{
	struct cow_header *h = &l->header;
	uint64_t l1_clusters = div_up(l->l1_bytes, cow_cluster_bytes(h));
	l->nr_l2_tables = nr_l2_tables;
	l->nr_data_clusters = nr_data_clusters;
	size_refcounts(l, 1 + l1_clusters + l->nr_l2_tables +
				  div_up(l->crypto_bytes, cow_cluster_bytes(h)) +
				  (l->external ? 0 : l->nr_data_clusters));
	if (h->reftable_clusters > QCOW2_MAX_REFTABLE_BYTES >> h->cluster_bits)
		return cow_error_set(err, -EFBIG,
				     "size %" PRIu64
				     ": too large to be preallocated: use larger clusters",
				     h->size_bytes);
	place(l, l1_clusters);
	return 0;
}

int cow_create_layout_init(struct cow_create_layout *l, const struct cow_create_options *options,
			   uint64_t size_bytes, struct cow_error *err)
{
	struct cow_header *h = &l->header;
	memset(l, 0, sizeof(*l));
	int ret = cow_create_load_options(h, options, err);
	if (ret)
		return ret;
	h->size_bytes = size_bytes;
	uint64_t l1_entries = cow_header_l1_entries(h, size_bytes);
	if (size_bytes > INT64_MAX || l1_entries > QCOW2_MAX_L1_BYTES / 8)
		return cow_error_set(err, -EFBIG,
				     "size %" PRIu64 ": clusters of %" PRIu32
				     " bytes reach %" PRIu64 " bytes at most: use larger clusters",
				     size_bytes, cow_cluster_bytes(h),
				     (uint64_t)cow_cluster_bytes(h) * cow_l2_entries(h) *
					     (QCOW2_MAX_L1_BYTES / 8));
	h->l1_entries = (uint32_t)l1_entries;
	l->l1_bytes = l1_entries * 8;
	l->external = options->data_file;
	l->backed = options->backing_file;
	l->crypto_bytes = options->encrypt ? cow_luks_format_bytes(options->encrypt) : 0;
	if (cow_create_preallocation(options) == COW_PREALLOC_OFF)
		return cow_create_layout_take(l, 0, 0, err);
	return cow_create_layout_take(l, l1_entries, div_up(size_bytes, cow_cluster_bytes(h)), err);
}
