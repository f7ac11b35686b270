/* SPDX-License-Identifier: MIT */
/*
 * Pure interpretation of L2 entries: a slice and a range give a run of entries of one kind. No I/O, no state.
 * Specification: "Cluster mapping"; rules: FORMAT.md section 2.
 */
#ifndef COW_MAP_H
#define COW_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/geometry.h"

enum cow_kind {
	COW_UNALLOCATED, /* the backing file's content, or zeros */
	COW_ZERO_PLAIN,  /* zeros, no host cluster */
	COW_ZERO_ALLOC,  /* zeros, a host cluster is kept for it */
	COW_NORMAL,
	COW_COMPRESSED,
	COW_BAD,         /* breaks a rule: see cow_entry_fault() */
};

struct cow_entry {
	uint64_t raw;
	enum cow_kind kind;
	bool copied;         /* refcount is exactly 1: may be written in place */
	struct cow_hoff host; /* NORMAL, ZERO_ALLOC: the host cluster */
};

/* A run of consecutive entries of one kind; NORMAL and ZERO_ALLOC: of one `copied`, consecutive on the host. */
struct cow_run {
	struct cow_entry first;
	uint32_t nr;
};

struct cow_entry cow_entry_decode(const struct cow_geometry *g, uint64_t raw);
/* The run that starts at entry idx of the slice, at most max entries long (max >= 1; never past the slice). */
struct cow_run cow_map_run(const struct cow_geometry *g, const uint8_t *slice, uint32_t idx, uint32_t max);
/* Which rule a BAD entry breaks. */
const char *cow_entry_fault(const struct cow_geometry *g, uint64_t raw);

uint64_t cow_slice_entry(const uint8_t *slice, uint32_t idx);
void cow_slice_set_entry(uint8_t *slice, uint32_t idx, uint64_t raw);

/* Does the kind read as zeros without looking at a backing file? */
static inline bool cow_kind_is_zero(enum cow_kind kind)
{
	return kind == COW_ZERO_PLAIN || kind == COW_ZERO_ALLOC;
}

/* L1 entry: the L2 table's offset, 0 if there is none. NULL or the rule it breaks. */
const char *cow_l1_fault(const struct cow_geometry *g, uint64_t raw);

#endif
