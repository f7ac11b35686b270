/* SPDX-License-Identifier: MIT */
/*
 * The disk that a tool writes as a whole. A file appears under its name when it is complete and
 * durable, or not at all: until then it has another name in the same folder, and who died leaves only
 * that one behind. What was there before under the name is replaced; its permissions and its owner
 * stay. A block device, and an image that exists and shall be kept, are written in place.
 */
#ifndef COW_CONVERT_TARGET_H
#define COW_CONVERT_TARGET_H

#include "engine/base/result.h"
#include "engine/create/create.h"
#include "engine/tool/bitmap_copy.h"
#include "engine/tool/disk.h"

struct cow_target_spec {
	struct cow_disk_spec disk; /* path, format, buffered, compress, secrets, roots */
	bool in_place;		   /* the image exists: only its content is written */
	bool unsafe;		   /* raw: what was written need not be durable */
	const struct cow_bitmap_copy *bitmaps; /* planned: the image gets them; NULL: none */
	/* a new one; size_bytes is set, a raw file has that and preallocation */
	struct cow_create_options create;
};

struct cow_target {
	struct cow_disk *disk; /* to be written to */
	bool reads_zero;       /* what is not written reads as zeros, or shows the backing file */
	/*
	 * A new image on a device that may have just the room for it: one thread only, or what others
	 * have set aside for themselves is missing in the end.
	 */
	bool tight;
	/* own */
	const struct cow_target_spec *spec;
	struct cow_host *host;
	char *path, *temporary; /* NULL: in place */
	bool existed;
	struct cow_file *old; /* what is replaced, locked meanwhile */
	bool device;
	bool opened; /* for writing, as a disk */
};

/* spec must stay. 0, or -errno with a text; nothing is left then. */
COW_MUST_CHECK int cow_target_open(struct cow_loop *loop, const struct cow_target_spec *spec,
				   struct cow_target *target, struct cow_error *err);
/* Everything is written. On failure it is as if it had been given up. */
COW_MUST_CHECK int cow_target_finish(struct cow_target *target, struct cow_loop *loop,
				     struct cow_error *err);
/* Something went wrong: no new file stays; of a device that shall be an image the header goes. */
void cow_target_give_up(struct cow_target *target, struct cow_loop *loop);

#endif
