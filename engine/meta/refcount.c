/* SPDX-License-Identifier: MIT */
#include "engine/meta/refcount.h"

#include "engine/meta/meta.h"

/* A block past the end would read as if all its clusters were free. */
static const char *entry_fault(const struct cow_meta *meta, uint64_t entry)
{
	if ((entry & QCOW2_REFTABLE_RESERVED) || (entry & (meta->core->g.cluster_bytes - 1)))
		return "refcount table entry is not cluster-aligned";
	if (entry >= meta->core->file->size_bytes)
		return "refcount table entry lies past the end of the file";
	return NULL;
}

enum cow_refs_result cow_refcount_slot(struct cow_meta *meta, uint64_t cluster,
				       struct cow_task *task, struct cow_slot **slot)
{
	const struct cow_geometry *g = &meta->core->g;
	cow_assert(meta->core->writable); /* who only reads has no cache for them */
	uint64_t block = cluster / g->refs_per_block;
	if (block >= meta->reftable.nr)
		return COW_REFS_BEYOND;
	uint64_t entry = cow_table_get(&meta->reftable, block);
	if (!entry)
		return COW_REFS_NONE;
	const char *fault = entry_fault(meta, entry);
	if (fault) {
		cow_task_fail(task, cow_core_corrupt(meta->core, task->loop,
						     meta->reftable.off + block * 8, fault));
		cow_task_yield(task);
		return COW_REFS_PARKED;
	}
	uint64_t slice = cluster % g->refs_per_block / g->refs_per_slice;
	*slot = cow_cache_get(&meta->refs, entry + slice * g->slice_bytes, task);
	return *slot ? COW_REFS_READY : COW_REFS_PARKED;
}
