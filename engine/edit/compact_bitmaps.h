/* SPDX-License-Identifier: MIT */
/* Compacting: dirty bitmaps. */
#ifndef COW_COMPACT_BITMAPS_H
#define COW_COMPACT_BITMAPS_H

#include "engine/base/result.h"
#include "engine/edit/edit.h"

struct cow_compact_bitmaps {
	struct cow_edit *e;
	uint64_t from;	   /* what lies at this cluster or behind moves */
	uint64_t clusters; /* of their tables and the directory, which are written anew then */
	void *ctx;
	void (*stays)(void *ctx, uint64_t off, uint64_t bytes);
	int (*copy)(void *ctx, uint64_t host, uint64_t to); /* a cluster */
};

/* Fills in clusters, and calls stays() for all that bitmaps have if that cannot move. */
COW_MUST_CHECK int cow_compact_bitmaps_look(struct cow_compact_bitmaps *b);
/* Their data, tables and directory to free clusters. */
COW_MUST_CHECK int cow_compact_bitmaps_move(struct cow_compact_bitmaps *b);

#endif
