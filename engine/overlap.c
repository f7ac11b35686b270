/* SPDX-License-Identifier: MIT */
/*
 * The last guard before a write: does the target lie in live metadata? Broken refcounts or mappings would make us overwrite
 * it otherwise. The fixed structures are compared always; L2 tables and refcount blocks when clusters are allocated
 * (linear in the tables: a few entries a GiB) and when an L2 slice is first used for in-place writes.
 */
#include "engine/image_impl.h"

static bool meets(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return b_bytes && a < b + b_bytes && b < a + a_bytes;
}

const char *cow_overlap_fixed(struct cow_image *image, uint64_t off, uint64_t bytes)
{
	if (off < image->g.cluster_bytes)
		return "the header";
	if (meets(off, bytes, image->l1.off, image->l1.nr * 8))
		return "the active L1 table";
	if (meets(off, bytes, image->reftable.off, image->reftable.nr * 8))
		return "the refcount table";
	if (meets(off, bytes, image->header.snapshots_off, image->snapshots_bytes))
		return "the snapshot table";
	return NULL;
}

static bool in_table(const struct cow_table *table, uint64_t off, uint64_t bytes, uint32_t cluster_bytes)
{
	uint64_t nr = table->nr;
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t at = cow_table_get(table, i) & QCOW2_OFFSET_MASK;
		if (at && meets(off, bytes, at, cluster_bytes))
			return true;
	}
	return false;
}

const char *cow_overlap(struct cow_image *image, uint64_t off, uint64_t bytes)
{
	const char *what = cow_overlap_fixed(image, off, bytes);
	if (what)
		return what;
	if (in_table(&image->l1, off, bytes, image->g.cluster_bytes))
		return "an active L2 table";
	if (in_table(&image->reftable, off, bytes, image->g.cluster_bytes))
		return "a refcount block";
	return NULL;
}
