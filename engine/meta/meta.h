/* SPDX-License-Identifier: MIT */
/*
 * An open image's metadata in memory: L1 table and refcount table whole, L2 tables and refcount
 * blocks in slices, the guard against writing over any of it, and the pass that brings what was
 * changed to disk.
 */
#ifndef COW_META_H
#define COW_META_H

#include "engine/base/result.h"
#include "engine/core/core.h"
#include "engine/meta/cache.h"
#include "engine/meta/outlive.h"
#include "engine/meta/overlap.h"
#include "engine/meta/table.h"
#include "engine/meta/writeback.h"

struct cow_meta {
	struct cow_core *core;
	struct cow_table l1, reftable;	   /* reftable: writable images */
	struct cow_cache l2, refs;	   /* refs: writable images */
	struct cow_overlap_filter overlap; /* writable images */
	struct cow_writeback writeback;	   /* writable images */
	struct cow_outlive outlive;	   /* head NULL: caches and tables die with the process */
};

/*
 * L1 table and caches, after core's header and geometry; of a writable image all the rest as well.
 * cache_bytes: of the L2 cache. On failure cow_meta_fini() is still due.
 */
COW_MUST_CHECK int cow_meta_open(struct cow_meta *meta, struct cow_core *core,
				 struct cow_loop *loop, uint64_t cache_bytes,
				 struct cow_error *err);
/*
 * Before it is opened: caches and tables go into this memfd, whose content is gone, and outlive the
 * process (replay.h). 0 or -errno.
 */
COW_MUST_CHECK int cow_meta_outlive(struct cow_meta *meta, struct cow_core *core, int fd);
/* Of the caches and of what may not be written over nothing is left. Nothing runs, nothing is dirty. */
void cow_meta_forget(struct cow_meta *meta);
/* After that: the tables as the file, which core's header speaks of, has them now. */
COW_MUST_CHECK int cow_meta_reload(struct cow_meta *meta, struct cow_loop *loop,
				   struct cow_error *err);
/* Also of a zeroed one. */
void cow_meta_fini(struct cow_meta *meta);

#endif
