/* SPDX-License-Identifier: MIT */
/*
 * Refcounts of host clusters, reached through the refcount table (meta->reftable) and the cache of
 * refcount block slices (meta->refs). Who may change them: the allocator (0 -> 1, holding its
 * baton) and the release task (down); snapshots under a freeze.
 */
#ifndef COW_REFCOUNT_H
#define COW_REFCOUNT_H

#include "engine/meta/cache.h"

struct cow_meta;

enum cow_refs_result {
	COW_REFS_READY,	 /* *slot is held */
	COW_REFS_PARKED, /* the task is parked or failed */
	COW_REFS_NONE,	 /* no refcount block there: all its refcounts are 0 */
	COW_REFS_BEYOND, /* past what the refcount table can describe */
};

/* The slice that holds host cluster's refcount. */
enum cow_refs_result cow_refcount_slot(struct cow_meta *meta, uint64_t cluster,
				       struct cow_task *task, struct cow_slot **slot);

#endif
