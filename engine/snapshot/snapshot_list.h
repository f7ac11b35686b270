/* SPDX-License-Identifier: MIT */
/*
 * The list of an image's snapshots in memory: adding to it and removing. The list has
 * h->nr_snapshots entries, free()d by cow_snapshots_free(). No I/O.
 */
#ifndef COW_SNAPSHOT_LIST_H
#define COW_SNAPSHOT_LIST_H

#include "engine/base/result.h"
#include "engine/snapshot/snapshot.h"

/* *idx: its place in list[nr]. -ENOENT; -EINVAL if the key fits several. */
COW_MUST_CHECK int cow_snapshot_find(const struct cow_snapshot *list, uint32_t nr,
				     const struct cow_snapshot_key *key, uint32_t *idx,
				     struct cow_error *err);

/* 0, or why a snapshot of that name cannot be added. */
COW_MUST_CHECK int cow_snapshot_list_may_add(const struct cow_snapshot *list,
					     const struct cow_header *h, const char *name,
					     struct cow_error *err);
/* The last one is new: of the disk that h describes, its L1 table still without a place. */
COW_MUST_CHECK int cow_snapshot_list_add(struct cow_snapshot **list, struct cow_header *h,
					 const char *name, const struct cow_snapshot_date *date,
					 struct cow_error *err);
void cow_snapshot_list_remove(struct cow_snapshot *list, struct cow_header *h, uint32_t idx);

/* The table in the file. */
uint64_t cow_snapshot_list_bytes(const struct cow_snapshot *list, uint32_t nr);
void cow_snapshot_list_encode(const struct cow_snapshot *list, uint32_t nr, uint8_t *raw);

#endif
