/* SPDX-License-Identifier: MIT */
#include "engine/meta/refcount.h"

#include "engine/image/state.h"

/* A block past the end would read as if all its clusters were free. */
static const char *entry_fault(const struct cow_image *image, uint64_t entry)
{
	if ((entry & QCOW2_REFTABLE_RESERVED) || (entry & (image->g.cluster_bytes - 1)))
		return "refcount table entry is not cluster-aligned";
	if (entry >= image->file->size_bytes)
		return "refcount table entry lies past the end of the file";
	return NULL;
}

enum cow_refs_result cow_refs_get(struct cow_image *image, uint64_t cluster, struct cow_task *task,
				  struct cow_slot **slot)
{
	const struct cow_geometry *g = &image->g;
	uint64_t block = cluster / g->refs_per_block;
	if (block >= image->reftable.nr)
		return COW_REFS_BEYOND;
	uint64_t entry = cow_table_get(&image->reftable, block);
	if (!entry)
		return COW_REFS_NONE;
	const char *fault = entry_fault(image, entry);
	if (fault) {
		cow_task_fail(task, cow_image_corrupt(image, task->loop,
						      image->reftable.off + block * 8, fault));
		cow_task_yield(task);
		return COW_REFS_PARKED;
	}
	uint64_t slice = cluster % g->refs_per_block / g->refs_per_slice;
	*slot = cow_cache_get(&image->refs, entry + slice * g->slice_bytes, task);
	return *slot ? COW_REFS_READY : COW_REFS_PARKED;
}
