/* SPDX-License-Identifier: MIT */
/*
 * Another disk size for a closed image. The file is opened for writing and locked. Blocking.
 *
 * Both ways it is an edit (edit.h): the tables that change go to free clusters, and all of
 * it takes effect with one write of the header's sector. What a smaller disk no longer has is given
 * back to the host after that. Snapshots keep their own sizes.
 */
#ifndef COW_RESIZE_H
#define COW_RESIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/loop/loop.h"

struct cow_header;
struct cow_extensions;

struct cow_resize_options {
	uint64_t bytes;			      /* the new size, or the difference */
	int sign;			      /* 0: the new size; else the difference's sign */
	bool shrink;			      /* may lose what lies behind the new end */
	enum cow_preallocation preallocation; /* of what is added, in whole clusters */
	uint32_t
		block_bytes; /* of the device it is attached as, whose multiple it shall be; 0: 512 */
	/* of the backing file's disk, where that is open; NULL: it is opened here */
	const uint64_t *backing_bytes;
};

/* The size that it will be; what the header alone says against it. The same size is never refused. */
COW_MUST_CHECK int cow_resize_check(const struct cow_header *h, const struct cow_extensions *ext,
				    const struct cow_resize_options *options, uint64_t *size_bytes,
				    struct cow_error *err);

/*
 * Refused: shrinking without `shrink`, or with preallocation; dirty bitmaps; an external data file; snapshots in version
 * 2; VM state behind the disk; a backing file that would show behind the old end.
 */
COW_MUST_CHECK int cow_resize(struct cow_loop *loop, struct cow_file *file,
			      const struct cow_resize_options *options, struct cow_error *err);

#endif
