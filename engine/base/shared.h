/* SPDX-License-Identifier: MIT */
/*
 * Memory that outlives the process that fills it: parts of a file of the kernel's (memfd), of which
 * somebody else holds a descriptor too. Like pages.h otherwise: costs address space until it is touched.
 */
#ifndef COW_SHARED_H
#define COW_SHARED_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/result.h"

struct cow_shared {
	int fd;		/* not ours */
	uint64_t bytes; /* handed out so far: the file's length */
};

/* A part of it. In memory of this process only if `shared` is NULL. */
struct cow_shared_part {
	void *memory;
	uint64_t off, bytes; /* in the file, whole pages */
	struct cow_shared *shared;
};

/* All that it held is gone. 0 or -errno. */
COW_MUST_CHECK int cow_shared_begin(struct cow_shared *shared, int fd);
/* Zeroed, page-aligned. shared: NULL for memory that nobody else sees. 0 or -errno. */
COW_MUST_CHECK int cow_shared_take(struct cow_shared *shared, size_t bytes,
				   struct cow_shared_part *part);
/* Memory of this process only: the content stays where it is shared. Also of a zeroed one. */
void cow_shared_unmap(struct cow_shared_part *part);
/* As cow_pages_give_back(): [off, off+bytes) of the part. */
void cow_shared_give_back(const struct cow_shared_part *part, size_t off, size_t bytes);

/* What somebody has left: [off, off+bytes) of the file, off on a page, to be read. NULL or pages. */
const void *cow_shared_map_left(int fd, uint64_t off, size_t bytes);
void cow_shared_unmap_left(const void *p, size_t bytes);

#endif
