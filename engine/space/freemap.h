/* SPDX-License-Identifier: MIT */
/*
 * Where free host clusters may be: for each refcount block the lowest index that may be free. A
 * hint: the truth is in the refcounts and in the quarantine. Nothing is known at open; a refill
 * looks at some blocks each time until all are known, and what is released is told. So nobody
 * reads all refcounts to find a free cluster.
 *
 * Four bytes for each entry of the refcount table, touched as far as the table reaches.
 *
 * Guarded by alloc->lock: call everything here with it held.
 */
#ifndef COW_FREEMAP_H
#define COW_FREEMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/result.h"

struct cow_freemap {
	uint32_t *first;     /* per block: see freemap.c */
	uint64_t capacity;   /* blocks; constant */
	uint64_t per_block;  /* refcounts in a block; constant */
	uint64_t free_from;  /* no block below is known to have a free cluster */
	uint64_t known_upto; /* no block below is unknown */
};

#define COW_FREEMAP_NONE UINT64_MAX

COW_MUST_CHECK int cow_freemap_init(struct cow_freemap *map, uint64_t capacity, uint64_t per_block);
void cow_freemap_fini(struct cow_freemap *map);
/* All is unknown again. */
void cow_freemap_forget(struct cow_freemap *map);

/* These clusters may be free now. */
void cow_freemap_freed(struct cow_freemap *map, uint64_t cluster, uint64_t nr);
/*
 * The lowest cluster that may be free by what is known; its block is full from now on, until
 * cow_freemap_found() says where the search for free clusters ended. NONE: none is known.
 */
uint64_t cow_freemap_take(struct cow_freemap *map);
/* Nothing is free in the block below idx (per_block: at all), but what was freed meanwhile. */
void cow_freemap_found(struct cow_freemap *map, uint64_t block, uint64_t idx);

bool cow_freemap_all_known(struct cow_freemap *map, uint64_t nr_blocks);
/*
 * The lowest unknown one of the first nr_blocks: somebody looks at it from now on and says
 * cow_freemap_found(). NONE: there is none.
 */
uint64_t cow_freemap_look(struct cow_freemap *map, uint64_t nr_blocks);

#endif
