/* SPDX-License-Identifier: MIT */
/*
 * The guard before every write: does the target lie in live metadata? Broken refcounts or mappings
 * would make us overwrite it otherwise.
 *
 * The structures that every image has once (header, L1, refcount table, snapshot table) are
 * compared directly. L2 tables and refcount blocks stand in a filter of bits (two hashes of the
 * host cluster; bits are only ever set): where it says "perhaps", the tables are searched. So the
 * usual answer costs two memory reads.
 */
#ifndef COW_OVERLAP_H
#define COW_OVERLAP_H

#include <stdatomic.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"

struct cow_meta;

struct cow_overlap_filter {
	_Atomic uint64_t *words;
	uint64_t mask; /* bits - 1 */
};

/*
 * After L1 and refcount table are loaded; refuses an image whose metadata overlaps itself (-EINVAL
 * with rule and offset).
 */
COW_MUST_CHECK int cow_overlap_init(struct cow_meta *meta, struct cow_error *err);
void cow_overlap_fini(struct cow_meta *meta);
/* A host cluster becomes an L2 table or a refcount block. */
void cow_overlap_add(struct cow_meta *meta, uint64_t off);

/* What [off, off+bytes) of the host file overlaps, or NULL. */
const char *cow_overlap(struct cow_meta *meta, uint64_t off, uint64_t bytes);

#endif
