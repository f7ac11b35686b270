/* SPDX-License-Identifier: MIT */
/*
 * What check knows of each host cluster, 4 bytes a cluster, in chunks that exist only where
 * something refers to a cluster: a sparse file costs nothing. Limits: COW_CHECK_MAX_CLUSTERS
 * clusters, COW_CHECK_MAX_CELLS_BYTES of memory.
 */
#ifndef COW_CHECK_CELLS_H
#define COW_CHECK_CELLS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/result.h"

#define COW_CHECK_MAX_CLUSTERS (1ull << 34)
#define COW_CHECK_MAX_CELLS_BYTES (4ull << 30)
#define COW_CHECK_MAX_REFS ((1u << 24) - 1) /* references to one cluster; counting stops there */

enum cow_check_kind {
	COW_KIND_NONE,
	COW_KIND_HEADER,
	COW_KIND_REFTABLE,
	COW_KIND_REFBLOCK,
	COW_KIND_L1,
	COW_KIND_SNAPSHOTS,
	COW_KIND_CRYPTO,
	COW_KIND_BITMAP_DIR,
	COW_KIND_BITMAP_TABLE,
	COW_KIND_BITMAP_DATA,
	/* From here on more than one reference is lawful. */
	COW_KIND_L2,
	COW_KIND_DATA,
	COW_KIND_COMPRESSED,
};

/* What the refcount on disk is. */
enum cow_check_disk { COW_DISK_ZERO, COW_DISK_ONE, COW_DISK_MANY };

struct cow_check_cell {
	uint32_t refs : 24;
	uint32_t kind : 4;     /* of the first reference */
	uint32_t conflict : 1; /* two kinds, or two references to what must have one owner */
	uint32_t disk : 2;
	/* an L2 table with entries that cannot be put right: not to be written to */
	uint32_t suspect : 1;
};
_Static_assert(sizeof(struct cow_check_cell) == 4, "the stated memory of a check");

struct cow_check_cells {
	uint64_t nr_clusters;
	uint64_t nr_chunks;
	struct cow_check_cell **chunks;
	uint64_t bytes; /* in use */
};

/* 0, -EFBIG or -ENOMEM. */
COW_MUST_CHECK int cow_check_cells_init(struct cow_check_cells *cells, uint64_t nr_clusters);
void cow_check_cells_fini(struct cow_check_cells *cells);

/* The cell of a cluster below nr_clusters for writing; NULL: out of memory or over the limit. */
struct cow_check_cell *cow_check_cells_at(struct cow_check_cells *cells, uint64_t cluster);
/* A copy; all zero where nothing refers. Any cluster number. */
struct cow_check_cell cow_check_cells_get(const struct cow_check_cells *cells, uint64_t cluster);
/* The first cluster >= from in an existing chunk; UINT64_MAX: none. */
uint64_t cow_check_cells_next(const struct cow_check_cells *cells, uint64_t from);

const char *cow_check_kind_name(enum cow_check_kind kind);

#endif
