/* SPDX-License-Identifier: MIT */
/*
 * Changes of a closed image's format: its version, lazy refcounts, refcount bits, backing file's name. The
 * file is opened for writing and locked. Blocking.
 *
 * Version 3 has a longer header, so the extensions behind it move. That is one write of the first
 * sector, which holds all of it:
 *
 *   2 -> 3: snapshots get a disk size of their own, if some have none | the backing file's name out of the way | the sector
 *   3 -> 2: the sector; only if nothing in the image needs version 3
 *
 * A crash leaves the old version or the new one, and the same content. Extensions that do not fit
 * into the sector: refused.
 *
 * Other refcount bits are an edit (edit_width.h), another backing file's name is one write (edit_backing.h). Of several
 * changes each takes effect by itself, in the order: name, refcount bits before version 2, version and lazy
 * refcounts, refcount bits, size; what went wrong with one stops there.
 */
#ifndef COW_AMEND_H
#define COW_AMEND_H

#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/loop/loop.h"

enum cow_amend_switch { COW_AMEND_KEEP, COW_AMEND_ON, COW_AMEND_OFF };

struct cow_amend_options {
	uint32_t version; /* 2 or 3; 0: as it is */
	enum cow_amend_switch lazy_refcounts;
	uint32_t refcount_bits; /* a power of 2, up to 64; 0: as they are */
	/* NULL: as it is; "": none. The content that is to be seen is the caller's care. */
	const char *backing_file, *backing_format;
	uint64_t size_bytes; /* a larger disk; 0: as it is */
};

/*
 * -EROFS: corrupt or not closed properly; -ENOTSUP: something in it needs version 3; -EFBIG: does not fit;
 * -ERANGE: too few refcount bits for what is there.
 */
COW_MUST_CHECK int cow_amend(struct cow_loop *loop, struct cow_file *file,
			     const struct cow_amend_options *options, struct cow_error *err);

#endif
