/* SPDX-License-Identifier: MIT */
/* first[block]: UNKNOWN, LOOKED_AT, or an index and INDEX (per_block: none is free). */
#include "engine/space/freemap.h"

#include <errno.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/math.h"
#include "engine/base/pages.h"

enum { UNKNOWN, LOOKED_AT, INDEX };

int cow_freemap_init(struct cow_freemap *map, uint64_t capacity, uint64_t per_block)
{
	memset(map, 0, sizeof(*map));
	map->capacity = capacity;
	map->per_block = per_block;
	/* Only touched where the refcount table is. */
	map->first = cow_pages_reserve(capacity * sizeof(*map->first));
	return map->first ? 0 : -ENOMEM;
}

void cow_freemap_fini(struct cow_freemap *map)
{
	cow_pages_free(map->first, map->capacity * sizeof(*map->first));
	map->first = NULL;
}

void cow_freemap_forget(struct cow_freemap *map)
{
	cow_pages_clear(map->first, map->capacity * sizeof(*map->first));
	map->free_from = 0;
	map->known_upto = 0;
}

static void lower(struct cow_freemap *map, uint64_t block, uint64_t idx)
{
	cow_assert(block < map->capacity && idx <= map->per_block);
	uint32_t value = (uint32_t)idx + INDEX;
	if (map->first[block] < INDEX || value < map->first[block])
		map->first[block] = value;
	if (idx < map->per_block && block < map->free_from)
		map->free_from = block;
}

void cow_freemap_freed(struct cow_freemap *map, uint64_t cluster, uint64_t nr)
{
	uint64_t block = cluster / map->per_block, last = (cluster + nr - 1) / map->per_block;
	for (uint64_t idx = cluster % map->per_block; block <= last; block++, idx = 0)
		if (block < map->capacity && map->first[block] != UNKNOWN)
			lower(map, block, idx);
}

uint64_t cow_freemap_take(struct cow_freemap *map)
{
	uint64_t full = map->per_block + INDEX;
	cow_assert(map->free_from <= map->known_upto);
	for (uint64_t b = map->free_from; b < map->known_upto; b++) {
		map->free_from = b;
		if (map->first[b] < INDEX || map->first[b] == full)
			continue;
		uint64_t cluster = b * map->per_block + map->first[b] - INDEX;
		map->first[b] = (uint32_t)full;
		return cluster ? cluster : 1; /* never the header's */
	}
	map->free_from = map->known_upto;
	return COW_FREEMAP_NONE;
}

void cow_freemap_found(struct cow_freemap *map, uint64_t block, uint64_t idx)
{
	if (block < map->capacity)
		lower(map, block, idx);
}

bool cow_freemap_all_known(struct cow_freemap *map, uint64_t nr_blocks)
{
	while (map->known_upto < cow_min(nr_blocks, map->capacity) &&
	       map->first[map->known_upto] != UNKNOWN)
		map->known_upto++;
	return map->known_upto >= cow_min(nr_blocks, map->capacity);
}

uint64_t cow_freemap_look(struct cow_freemap *map, uint64_t nr_blocks)
{
	if (cow_freemap_all_known(map, nr_blocks))
		return COW_FREEMAP_NONE;
	cow_assert(map->first[map->known_upto] == UNKNOWN);
	map->first[map->known_upto] = LOOKED_AT;
	return map->known_upto++;
}
