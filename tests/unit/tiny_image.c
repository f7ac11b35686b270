/* SPDX-License-Identifier: MIT */
#include "tests/unit/tiny_image.h"

#include <string.h>

#include "engine/base/be.h"
#include "engine/format/format.h"

#define NEW_CONTENT 0xee /* of guest cluster 0, since the snapshot */

static void place(struct tiny_image *t)
{
	uint64_t per_block = TINY_CLUSTER * 8 >> t->order;
	/*
	 * header, table, 2 L1, snapshot table, 2 L2, 65 data, and what the blocks themselves take
	 */
	t->nr_refblocks = 1;
	while (t->nr_refblocks * per_block < 72 + t->nr_refblocks)
		t->nr_refblocks++;
	t->reftable = TINY_CLUSTER;
	t->refblocks = 2 * TINY_CLUSTER;
	t->l1 = t->refblocks + t->nr_refblocks * TINY_CLUSTER;
	t->snapshot_l1 = t->l1 + TINY_CLUSTER;
	t->snapshots = t->snapshot_l1 + TINY_CLUSTER;
	t->l2 = t->snapshots + TINY_CLUSTER;
	t->snapshot_l2 = t->l2 + TINY_CLUSTER;
	t->data = t->snapshot_l2 + TINY_CLUSTER;
	t->size = t->data + (TINY_GUEST_CLUSTERS + 1) * TINY_CLUSTER;
}

static void write_header(struct tiny_image *t)
{
	const struct cow_header h = {
		.version = 3,
		.cluster_bits = 9,
		.size_bytes = TINY_GUEST_CLUSTERS * TINY_CLUSTER,
		.l1_entries = 1,
		.l1_off = t->l1,
		.reftable_off = t->reftable,
		.reftable_clusters = 1,
		.nr_snapshots = 1,
		.snapshots_off = t->snapshots,
		.refcount_order = t->order,
		.header_bytes = 112,
	};
	cow_header_encode(&h, t->bytes, TINY_CLUSTER);
}

static void write_snapshot_table(struct tiny_image *t)
{
	const struct cow_snapshot s = {
		.l1_off = t->snapshot_l1,
		.l1_entries = 1,
		.disk_bytes = TINY_GUEST_CLUSTERS * TINY_CLUSTER,
		.extra_bytes = 24,
		.id = (char *)"1",
		.name = (char *)"first",
	};
	cow_snapshot_encode(&s, t->bytes + t->snapshots);
}

/* Guest cluster 0 is the active image's own; the others are shared with the snapshot. */
static void write_mapping(struct tiny_image *t)
{
	uint64_t own = t->data + TINY_GUEST_CLUSTERS * TINY_CLUSTER;
	cow_store64_be(t->bytes + t->l1, t->l2 | QCOW2_COPIED);
	cow_store64_be(t->bytes + t->snapshot_l1, t->snapshot_l2);
	for (uint64_t i = 0; i < TINY_GUEST_CLUSTERS; i++) {
		uint64_t off = t->data + i * TINY_CLUSTER;
		cow_store64_be(t->bytes + t->snapshot_l2 + i * 8, off);
		cow_store64_be(t->bytes + t->l2 + i * 8, i ? off : own | QCOW2_COPIED);
		memset(t->bytes + off, (int)i + 1, TINY_CLUSTER);
	}
	memset(t->bytes + own, NEW_CONTENT, TINY_CLUSTER);
}

uint64_t tiny_refblock_of(const struct tiny_image *t, uint64_t cluster, uint64_t *idx)
{
	uint64_t per_block = TINY_CLUSTER * 8 >> t->order;
	*idx = cluster % per_block;
	return t->refblocks + cluster / per_block * TINY_CLUSTER;
}

static void write_refcounts(struct tiny_image *t)
{
	uint64_t shared = t->data / TINY_CLUSTER + 1, end = t->size / TINY_CLUSTER, idx;
	for (uint64_t i = 0; i < t->nr_refblocks; i++)
		cow_store64_be(t->bytes + t->reftable + i * 8, t->refblocks + i * TINY_CLUSTER);
	for (uint64_t c = 0; c < end; c++) {
		uint64_t block = tiny_refblock_of(t, c, &idx);
		cow_refcount_set(t->bytes + block, t->order, idx,
				 c >= shared && c + 1 < end ? 2 : 1);
	}
}

void tiny_image_build(struct tiny_image *t, uint32_t order)
{
	memset(t, 0, sizeof(*t));
	t->order = order;
	place(t);
	write_header(t);
	write_snapshot_table(t);
	write_mapping(t);
	write_refcounts(t);
}

void tiny_image_downgrade(struct tiny_image *t)
{
	cow_store32_be(t->bytes + offsetof(struct qcow2_header_be, version), 2);
	memset(t->bytes + offsetof(struct qcow2_header_be, incompatible_features), 0,
	       TINY_CLUSTER - offsetof(struct qcow2_header_be, incompatible_features));
}

/* ---- reading back ---- */

static bool cluster_is(const uint8_t *bytes, uint64_t size, uint64_t off, uint8_t value)
{
	if (off % TINY_CLUSTER || off + TINY_CLUSTER > size)
		return false;
	for (unsigned i = 0; i < TINY_CLUSTER; i++)
		if (bytes[off + i] != value)
			return false;
	return true;
}

static bool l1_reads(const uint8_t *bytes, uint64_t size, uint64_t l1, uint8_t first)
{
	if (l1 % TINY_CLUSTER || l1 + TINY_CLUSTER > size)
		return false;
	uint64_t l2 = cow_load64_be(bytes + l1) & QCOW2_OFFSET_MASK;
	if (l2 + TINY_CLUSTER > size)
		return false;
	for (unsigned i = 0; i < TINY_GUEST_CLUSTERS; i++) {
		uint64_t off = cow_load64_be(bytes + l2 + i * 8) & QCOW2_OFFSET_MASK;
		if (!cluster_is(bytes, size, off, i ? (uint8_t)(i + 1) : first))
			return false;
	}
	return true;
}

bool tiny_image_active_reads(const uint8_t *bytes, uint64_t size)
{
	struct cow_header h;
	return !cow_header_decode_lenient(bytes, TINY_CLUSTER, &h, NULL) &&
	       l1_reads(bytes, size, h.l1_off, NEW_CONTENT);
}

bool tiny_image_reads(const uint8_t *bytes, uint64_t size)
{
	struct cow_header h;
	if (cow_header_decode_lenient(bytes, TINY_CLUSTER, &h, NULL) || h.nr_snapshots != 1 ||
	    h.snapshots_off + 40 > size)
		return false;
	return l1_reads(bytes, size, h.l1_off, NEW_CONTENT) &&
	       l1_reads(bytes, size, cow_load64_be(bytes + h.snapshots_off), 1);
}
