/* SPDX-License-Identifier: MIT */
/* Compacting: one step, and what is found out before and after them. See compact.h. */
#ifndef COW_COMPACT_STEP_H
#define COW_COMPACT_STEP_H

#include "engine/base/result.h"
#include "engine/edit/compact.h"
#include "engine/edit/compact_bitmaps.h"
#include "engine/edit/compact_packed.h"
#include "engine/edit/compact_tables.h"
#include "engine/edit/edit.h"

#define COW_COMPACT_STEP_MOST (4ull << 20) /* clusters that it looks at: 32 MiB of memory */

struct cow_compact_step {
	const struct cow_compact_options *options;
	struct cow_compact_result *result;
	struct cow_edit e;
	struct cow_compact_tables tables;
	struct cow_compact_packed packed;
	uint64_t used, end; /* clusters of the image as it stands: in use, and up to the last one */
	uint64_t fixed;	    /* the last one that has to stay, plus 1 */
	const char *fixed_as; /* what that is */
	uint64_t nr_blocks;   /* refcount blocks */
	struct cow_compact_bitmaps bitmaps;
	uint64_t from;	      /* what lies from this one on moves */
	uint64_t *to;	      /* new host offset of clusters from `from` on; 0: not met yet */
	uint64_t total_bytes; /* the caller's: that are to be moved, about */
	bool all;	      /* whatever the room: as far down as it could be */
	bool full;	      /* nothing below `from` is free */
	uint64_t moved_bytes;
	uint8_t *copy;
};

/*
 * Opens the edit, and looks. The fields are zero but options and result. To be closed after a failure,
 * too.
 */
COW_MUST_CHECK int cow_compact_step_open(struct cow_compact_step *s, struct cow_loop *loop,
					 struct cow_file *file, struct cow_error *err);
void cow_compact_step_close(struct cow_compact_step *s);
/* Before so many bytes are moved, or looked at: calls options->before(). */
COW_MUST_CHECK int cow_compact_step_before(struct cow_compact_step *s, uint64_t bytes);
/* An L2 table to s->e.table; and from there, changed, to a new place, or away when it is empty. */
COW_MUST_CHECK int cow_compact_step_read_table(struct cow_compact_step *s, uint64_t off);
COW_MUST_CHECK int cow_compact_step_change_table(struct cow_compact_step *s,
						 struct cow_compact_table *t);
/* Clusters that the file has at least, whatever moves; that one step moves at most. */
uint64_t cow_compact_step_least(const struct cow_compact_step *s);
uint64_t cow_compact_step_clusters(const struct cow_compact_step *s);
/*
 * The host had no room for such a step, and has it back: a smaller one needs less. False: there is none,
 * or that was not the error.
 */
bool cow_compact_step_smaller(const struct cow_compact_step *s, int ret,
			      struct cow_compact_options *options);
/* A cluster of data from one place to another. */
COW_MUST_CHECK int cow_compact_step_copy(struct cow_compact_step *s, uint64_t host, uint64_t to);
/* In use behind that. */
COW_MUST_CHECK int cow_compact_step_total(struct cow_compact_step *s, uint64_t *bytes);
/*
 * Moves what lies at the end, and commits that if the file becomes shorter. *gained: by so many
 * clusters.
 */
COW_MUST_CHECK int cow_compact_step_run(struct cow_compact_step *s, uint64_t *gained);
/* Moves data as far down as it could be, and all tables that change for it behind the end; commits. */
COW_MUST_CHECK int cow_compact_step_lift(struct cow_compact_step *s);
#endif
