/* SPDX-License-Identifier: MIT */
/*
 * The content of a disk, or of several one behind the other, copied into another, by several threads. What reads as zeros is not written
 * where the target reads as zeros anyway; what the mapping does not tell is found by looking at what
 * was read.
 *
 * Memory: a thread takes 1 MiB (or a cluster of the target, if that is more) and two lanes.
 */
#ifndef COW_CONVERT_H
#define COW_CONVERT_H

#include "engine/base/result.h"
#include "engine/tool/concat.h"
#include "engine/tool/rate.h"
#include "engine/tool/salvage.h"
#include "engine/tool/walk.h"

struct cow_convert {
	const struct cow_concat *source;
	struct cow_disk *target; /* not smaller */
	bool target_is_zero;	 /* what is not written reads as zeros */
	/*
	 * The target's backing file shows what is not written: content that the source has from its
	 * chain at this depth or below is not copied, up to `reach` bytes of the disk. One source only.
	 */
	bool has_backing;
	unsigned shared_depth;
	uint64_t reach, backing_bytes;
	/* what is not copied must not be touched either: nothing is rounded to the target's clusters */
	bool exact;
	/* so many zero bytes in a row are not stored, a multiple of 512; 0: everything is stored */
	uint64_t sparse_bytes;
	/* go on where the source cannot be read; NULL: that ends it */
	struct cow_salvage *salvage;
	struct cow_rate *rate; /* of what is written; NULL: no limit */
	bool offload;	       /* let the host copy where it can, without looking for zeros */
	unsigned nr_threads;   /* these two as in walk.h */
	struct cow_loop *loop;
	const atomic_bool *cancel;
	struct cow_progress progress;
	/* after an error: where, and whether the source could not be read */
	bool failed_source;
	uint64_t failed_off;
};

/* 0 or -errno. What was written is durable when the target is closed. */
COW_MUST_CHECK int cow_convert(struct cow_convert *c);

#endif
