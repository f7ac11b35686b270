/* SPDX-License-Identifier: MIT */
#include "engine/check/check_cells.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "engine/base/assert.h"

#define CHUNK_CLUSTERS 1024u
#define CHUNK_BYTES (CHUNK_CLUSTERS * sizeof(struct cow_check_cell))

int cow_check_cells_init(struct cow_check_cells *cells, uint64_t nr_clusters)
{
	if (nr_clusters > COW_CHECK_MAX_CLUSTERS)
		return -EFBIG;
	cells->nr_clusters = nr_clusters;
	cells->nr_chunks = (nr_clusters + CHUNK_CLUSTERS - 1) / CHUNK_CLUSTERS;
	cells->bytes = 0;
	cells->chunks =
		calloc(cells->nr_chunks ? cells->nr_chunks : 1, sizeof(struct cow_check_cell *));
	return cells->chunks ? 0 : -ENOMEM;
}

void cow_check_cells_fini(struct cow_check_cells *cells)
{
	for (uint64_t i = 0; cells->chunks && i < cells->nr_chunks; i++)
		free(cells->chunks[i]);
	free(cells->chunks);
	cells->chunks = NULL;
}

struct cow_check_cell *cow_check_cells_at(struct cow_check_cells *cells, uint64_t cluster)
{
	cow_assert(cluster < cells->nr_clusters);
	struct cow_check_cell **chunk = &cells->chunks[cluster / CHUNK_CLUSTERS];
	if (!*chunk) {
		if (cells->bytes + CHUNK_BYTES > COW_CHECK_MAX_CELLS_BYTES)
			return NULL;
		*chunk = calloc(1, CHUNK_BYTES);
		if (!*chunk)
			return NULL;
		cells->bytes += CHUNK_BYTES;
	}
	return &(*chunk)[cluster % CHUNK_CLUSTERS];
}

struct cow_check_cell cow_check_cells_get(const struct cow_check_cells *cells, uint64_t cluster)
{
	static const struct cow_check_cell none;
	if (cluster >= cells->nr_clusters)
		return none;
	const struct cow_check_cell *chunk = cells->chunks[cluster / CHUNK_CLUSTERS];
	return chunk ? chunk[cluster % CHUNK_CLUSTERS] : none;
}

uint64_t cow_check_cells_next(const struct cow_check_cells *cells, uint64_t from)
{
	while (from < cells->nr_clusters) {
		if (cells->chunks[from / CHUNK_CLUSTERS])
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
