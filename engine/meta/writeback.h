/* SPDX-License-Identifier: MIT */
/*
 * Writeback: the one place that brings metadata to disk, in passes. A pass
 *
 *   captures   what is dirty, most dependent first: frees, header, L1, L2, refcount table, refcounts. What is captured later can
 *              only be newer, so everything that a captured pointer relies on is in the same pass (or on disk already);
 *   writes     refcounts | refcount table | L2 | L1 | header, with one fdatasync at each | that has something to order;
 *   ends       with an fdatasync, which also covers all guest data that was written before the capture.
 *
 * Who waits for a pass: core/commit.h. Nothing holds a lock while a pass writes; slots may be
 * changed meanwhile and belong to the next pass.
 *
 * Errors. A full host (base/full.h) while writing: what was captured becomes dirty again, who
 * joined gets -ENOSPC, the image stays good (any part of a phase may be on disk: that is what the
 * order is for). Anything else, and any failed fdatasync: the image is failed.
 *
 * Lock: commit->lock guards who waits, and whether a pass runs. The rest belongs to the pass.
 */
#ifndef COW_WRITEBACK_H
#define COW_WRITEBACK_H

#include <stdatomic.h>

#include "engine/base/result.h"
#include "engine/core/commit.h"
#include "engine/meta/cache.h"
#include "engine/meta/table.h"
#include "engine/meta/written.h"
#include "engine/loop/task.h"

struct cow_meta;

enum cow_phase {
	COW_PHASE_REFS,
	COW_PHASE_REFTABLE,
	COW_PHASE_L2,
	COW_PHASE_L1,
	COW_PHASE_HEADER,
	COW_NR_PHASES
};

/* One contiguous host write. */
struct cow_extent_write {
	uint64_t off;
	uint64_t bytes;
	uint8_t *data;
};

struct cow_writeback_io {
	struct cow_io io;
	struct cow_writeback *wb;
	bool busy;
};

struct cow_writeback {
	struct cow_meta *meta;
	struct cow_commit *commit; /* meta's core's */
	struct cow_written
		*written; /* told of L2 tables and refcount blocks; may be NULL; commit->lock */

	/* the pass's own */
	struct cow_task task;
	enum cow_phase phase;
	bool need_barrier; /* something was written that the next phase must not overtake */
	bool had_ordered;
	unsigned next_write, nr_writes;
	struct cow_extent_write *writes;
	struct cow_captured *refs, *l2;
	unsigned nr_refs, nr_l2;
	struct cow_table_block *l1, *reftable;
	unsigned nr_l1, nr_reftable;
	bool has_header;
	uint8_t *refs_buf, *l2_buf, *l1_buf, *reftable_buf, *header_buf;
	struct cow_writeback_io ios[COW_WRITEBACK_IOS];
	/* statistics, for tests and bench */
	uint64_t nr_passes, nr_syncs;
};

/* The pass that core's commit runs; after the tables and caches. 0 or -ENOMEM. */
COW_MUST_CHECK int cow_writeback_init(struct cow_writeback *wb, struct cow_meta *meta);
/* Also of a zeroed one. */
void cow_writeback_fini(struct cow_writeback *wb);

/*
 * From now on, or (NULL) no more: passes that end note what they have written. The one before may
 * be freed when this returns.
 */
void cow_writeback_watch(struct cow_writeback *wb, struct cow_written *written);
/* Takes memory for what passes copy of the tables: all that they ever need, or some. */
void cow_writeback_take_all(struct cow_writeback *wb);
void cow_writeback_take_some(struct cow_writeback *wb);
/* Gives back what passes have copied into beyond what the caches may have dirty, unless one runs. */
void cow_writeback_rest(struct cow_writeback *wb);

#endif
