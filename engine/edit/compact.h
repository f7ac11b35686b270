/* SPDX-License-Identifier: MIT */
/*
 * A closed image's space given back in place. The file is opened for writing and locked. Blocking.
 *
 * Step by step, each an edit (edit.h): what lies at the end of the file goes to free clusters below,
 * all that leads to it changes with one write of the header, and the file is cut:
 *
 *   moved clusters, moved tables, refcounts | header | punch what became free, cut the file
 *
 * So a crash leaves the image of before or after a step, and no leaks. What is done by then stays
 * done: run again, it goes on from there. At last the free clusters that are left become holes.
 *
 * Before that, data that is to be compressed is: window by window of the file, each an edit, too.
 *
 * Tables that are longer than they need be become shorter before, and after the steps what they left free
 * is filled: for that the file gets longer by some tables until the next header (compact_squeeze.h).
 *
 * It stays where it is: an encryption header, dirty bitmaps to which the header leads from outside of its first sector, data that is encrypted by its place in the
 * file (LUKS), and behind those what they keep from being cut. An external data file is not looked at.
 *
 * Room on the host, besides: one step's clusters and tables. Memory: the refcounts of the image, a bit
 * more for each cluster; 8 bytes for each cluster of a step, 24 for each L2 table, to compress twice 4 MiB or 8 clusters; and first what a
 * check needs (check.h).
 */
#ifndef COW_COMPACT_H
#define COW_COMPACT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/loop/loop.h"

struct cow_compact_options {
	/* Data that holds only zeros is given up; not where it is encrypted or compressed. */
	bool zeroes;
	/* Data becomes compressed where that is shorter, as the header says how; zeros are given up. */
	bool compress;
	/*
	 * May be NULL: one after the other. Calls one() for each i below nr, on any threads, worker
	 * below nr_workers and at no two threads at a time; returns after all of them.
	 */
	void (*each)(void *ctx, unsigned nr, void (*one)(void *arg, unsigned i, unsigned worker),
		     void *arg);
	unsigned nr_workers;
	uint64_t step_bytes; /* that one step moves; 0: enough to be worth the tables */
	/*
	 * May be NULL. Before so many bytes are moved or looked at; total: about how many it will be.
	 * An error ends it, with all steps before this one done.
	 */
	int (*before)(void *ctx, struct cow_loop *loop, uint64_t bytes, uint64_t total_bytes);
	void *ctx;
};

struct cow_compact_result {
	uint64_t bytes_before, bytes_after; /* up to the end of the last cluster in use */
	uint64_t moved_bytes;		    /* clusters of data */
	uint64_t compressed_bytes;	    /* were clusters of plain data */
	uint64_t zeroes_bytes;		    /* given up: clusters of zeros */
	uint64_t left_bytes;		    /* free below the end: holes */
	const char *left_for; /* what has to stay at the end; NULL: nothing that matters */
};

/*
 * -EINVAL: corrupt; -ENOSPC: no room for a step. *result is true also after an error: of the steps
 * before.
 */
COW_MUST_CHECK int cow_compact(struct cow_loop *loop, struct cow_file *file,
			       const struct cow_compact_options *options,
			       struct cow_compact_result *result, struct cow_error *err);

#endif
