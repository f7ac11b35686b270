/* SPDX-License-Identifier: MIT */
/*
 * Where a guest range's content comes from: the image itself or whatever of its backing chain maps
 * it. Level by level: an unallocated run goes on to the next image, clipped to what is left of it;
 * past the end of a shorter backing file come zeros.
 */
#ifndef COW_SOURCE_H
#define COW_SOURCE_H

#include <stdint.h>

#include "engine/loop/task.h"

struct cow_image;

enum cow_source_kind { COW_SOURCE_ZERO, COW_SOURCE_DATA, COW_SOURCE_COMPRESSED };

struct cow_source {
	enum cow_source_kind kind;
	uint64_t bytes;		 /* length of the run, >= 512 */
	struct cow_image *image; /* the level that maps it */
	uint64_t host_off; /* DATA: in image->file; ZERO: with has_host, the cluster kept for it */
	bool has_host;	   /* it has a place on the host, as it is */
	struct cow_image *last; /* the level that was asked last: `image`, unless that is NULL */
	uint64_t entry;		/* COMPRESSED: the L2 entry */
	uint64_t in_cluster;	/* COMPRESSED: offset inside the inflated cluster */
};

/*
 * False: the task is parked (or has failed and is about to run again): return COW_WAIT. At most
 * bytes are looked at. Of a task that fails source->bytes tells how much of the range has the same
 * fault: what a wrong entry, or a table that cannot be read, speaks for.
 */
bool cow_source_find(struct cow_image *image, uint64_t off, uint64_t bytes,
		     struct cow_source *source, struct cow_task *task);
/* The largest cluster of the chain: what an inflated cluster can take. */
uint32_t cow_source_cluster_bytes(const struct cow_image *image);

#endif
