/* SPDX-License-Identifier: MIT */
/*
 * The commands on the persistent dirty bitmaps of a closed image, each a change as a whole
 * (bitmap_edit.h). On an image in use see tracking.h.
 */
#ifndef COW_BITMAP_H
#define COW_BITMAP_H

#include "engine/base/result.h"
#include "engine/bitmap/dirty.h"
#include "engine/format/bitmap_directory.h"
#include "engine/loop/loop.h"

#define COW_BITMAP_DEFAULT_GRANULARITY_BITS 16u

enum cow_bitmap_command {
	COW_BITMAP_ADD,
	COW_BITMAP_REMOVE, /* inconsistent ones as well; all others refuse these */
	COW_BITMAP_CLEAR,
	COW_BITMAP_ENABLE,
	COW_BITMAP_DISABLE,
	COW_BITMAP_MERGE, /* what is dirty in the sources is dirty in it as well */
};

struct cow_bitmap_change {
	enum cow_bitmap_command command;
	const char *name;
	unsigned granularity_bits;  /* ADD; 0: the default */
	bool disabled;		    /* ADD */
	const char *const *sources; /* MERGE */
	unsigned nr_sources;
};

/*
 * -ENOENT, -EEXIST, -EINVAL (inconsistent), -ENOTSUP (version 2), -ENOTRECOVERABLE: see bitmap_edit.h, or the host's.
 */
COW_MUST_CHECK int cow_bitmap_run(struct cow_loop *loop, struct cow_file *file,
				  const struct cow_bitmap_change *change, struct cow_error *err);

/* What is dirty, as the file has it; *d is initialised here. Writes nothing. */
COW_MUST_CHECK int cow_bitmap_dump(struct cow_loop *loop, struct cow_file *file, const char *name,
				   struct cow_dirty *d, struct cow_error *err);

/* "enabled", "disabled", "inconsistent": what can be done with it. */
const char *cow_bitmap_state(uint32_t flags);
/* The name of a command, and the reverse: -1: none. */
const char *cow_bitmap_command_name(enum cow_bitmap_command command);
COW_MUST_CHECK int cow_bitmap_command_find(const char *name);

#endif
