/* SPDX-License-Identifier: MIT */
/*
 * What a snapshot command does to one L2 table or refcount block, in memory: pure, for changes that
 * are prepared beside a running device (engine/life/live.h).
 */
#ifndef COW_SHADOW_H
#define COW_SHADOW_H

#include "engine/base/result.h"
#include "engine/format/geometry.h"
#include "engine/snapshot/delta.h"

/* Bytes [from, to) of an L2 table or refcount block: whole entries. */
struct cow_shadow_part {
	uint32_t from, to;
};

/*
 * A rule of FORMAT that an entry of the table's part breaks, or NULL; *at: the entry's offset in it.
 */
const char *cow_shadow_fault(const struct cow_geometry *g, const uint8_t *table,
			     struct cow_shadow_part part, uint32_t *at);
/* Is an entry's COPIED flag set? */
bool cow_shadow_has_copied(const struct cow_geometry *g, const uint8_t *table);

/*
 * One reference for each that the part of the sound table `now` makes, one less for each that
 * `before` made (NULL: none), times `by`; nothing for entries that are the same. 0 or
 * cow_delta_add()'s error.
 */
COW_MUST_CHECK int cow_shadow_count(struct cow_delta *d, const struct cow_geometry *g,
				    const uint8_t *before, const uint8_t *now,
				    struct cow_shadow_part part, int by);

void cow_shadow_clear_copied(const struct cow_geometry *g, uint8_t *table,
			     struct cow_shadow_part part);
/* Sets COPIED where the cluster is marked in d. True: something changed. */
bool cow_shadow_set_copied(const struct cow_geometry *g, const struct cow_delta *d, uint8_t *table,
			   struct cow_shadow_part part);

enum cow_shadow_result { COW_SHADOW_OK, COW_SHADOW_LOW, COW_SHADOW_HIGH, COW_SHADOW_NO_MEMORY };

/*
 * Adds d to the counts in the refcount block's part; first: the cluster of its first one. What would fall to 0
 * stays 1: it is freed afterwards, the way of everything that is freed. Marks in d which
 * clusters will have one reference less and just one left. LOW (a cluster in use has
 * a refcount too low) and HIGH (the refcount's width is exceeded) name *cluster.
 */
enum cow_shadow_result cow_shadow_refcounts(struct cow_delta *d, const struct cow_geometry *g,
					    uint64_t first, uint8_t *block,
					    struct cow_shadow_part part, uint64_t *cluster);

#endif
