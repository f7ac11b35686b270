/* SPDX-License-Identifier: MIT */
/* All L2 tables of an image, those of its snapshots too, each once; and the L1 tables that lead there. */
#ifndef COW_COMPACT_TABLES_H
#define COW_COMPACT_TABLES_H

#include "engine/base/result.h"
#include "engine/edit/edit.h"

struct cow_compact_table {
	uint64_t off, to; /* to: its place as it will be, 0: none */
	uint32_t refs;	  /* L1 entries that lead to it */
};

struct cow_compact_tables {
	struct cow_compact_table *t; /* ascending */
	uint64_t nr;
	uint64_t **l1; /* of e->snapshots; host byte order */
	uint32_t nr_l1;
};

COW_MUST_CHECK int cow_compact_tables_load(struct cow_compact_tables *ts, struct cow_edit *e);
void cow_compact_tables_free(struct cow_compact_tables *ts);
/*
 * L1 tables and snapshot table as the moved L2 tables want them, and those that lie at host offset
 * `from` or behind: to new places.
 */
COW_MUST_CHECK int cow_compact_tables_store(struct cow_compact_tables *ts, struct cow_edit *e,
					    uint64_t from);

#endif
