/* SPDX-License-Identifier: MIT */
#include "engine/check/check_map.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "engine/base/assert.h"

#define CHUNK_CLUSTERS 1024u
#define CHUNK_BYTES (CHUNK_CLUSTERS * sizeof(struct cow_check_cell))

int cow_check_map_init(struct cow_check_map *map, uint64_t nr_clusters)
{
	if (nr_clusters > COW_CHECK_MAX_CLUSTERS)
		return -EFBIG;
	map->nr_clusters = nr_clusters;
	map->nr_chunks = (nr_clusters + CHUNK_CLUSTERS - 1) / CHUNK_CLUSTERS;
	map->bytes = 0;
	map->chunks = calloc(map->nr_chunks ? map->nr_chunks : 1, sizeof(struct cow_check_cell *));
	return map->chunks ? 0 : -ENOMEM;
}

void cow_check_map_fini(struct cow_check_map *map)
{
	for (uint64_t i = 0; map->chunks && i < map->nr_chunks; i++)
		free(map->chunks[i]);
	free(map->chunks);
	map->chunks = NULL;
}

struct cow_check_cell *cow_check_map_cell(struct cow_check_map *map, uint64_t cluster)
{
	cow_assert(cluster < map->nr_clusters);
	struct cow_check_cell **chunk = &map->chunks[cluster / CHUNK_CLUSTERS];
	if (!*chunk) {
		if (map->bytes + CHUNK_BYTES > COW_CHECK_MAX_MAP_BYTES)
			return NULL;
		*chunk = calloc(1, CHUNK_BYTES);
		if (!*chunk)
			return NULL;
		map->bytes += CHUNK_BYTES;
	}
	return &(*chunk)[cluster % CHUNK_CLUSTERS];
}

struct cow_check_cell cow_check_map_get(const struct cow_check_map *map, uint64_t cluster)
{
	static const struct cow_check_cell none;
	if (cluster >= map->nr_clusters)
		return none;
	const struct cow_check_cell *chunk = map->chunks[cluster / CHUNK_CLUSTERS];
	return chunk ? chunk[cluster % CHUNK_CLUSTERS] : none;
}

uint64_t cow_check_map_next(const struct cow_check_map *map, uint64_t from)
{
	while (from < map->nr_clusters) {
		if (map->chunks[from / CHUNK_CLUSTERS])
			return from;
		from = (from / CHUNK_CLUSTERS + 1) * CHUNK_CLUSTERS;
	}
	return UINT64_MAX;
}

const char *cow_check_kind_name(enum cow_check_kind kind)
{
	static const char *const names[] = {
		[COW_KIND_NONE] = "nothing",
		[COW_KIND_HEADER] = "header",
		[COW_KIND_REFTABLE] = "refcount table",
		[COW_KIND_REFBLOCK] = "refcount block",
		[COW_KIND_L1] = "L1 table",
		[COW_KIND_SNAPSHOTS] = "snapshot table",
		[COW_KIND_CRYPTO] = "encryption header",
		[COW_KIND_BITMAP_DIR] = "bitmap directory",
		[COW_KIND_BITMAP_TABLE] = "bitmap table",
		[COW_KIND_BITMAP_DATA] = "bitmap data",
		[COW_KIND_L2] = "L2 table",
		[COW_KIND_DATA] = "data",
		[COW_KIND_COMPRESSED] = "compressed data",
	};
	return names[kind];
}
