/* SPDX-License-Identifier: MIT */
/* The images of a disk's chain, one by one. Depth 0 is the disk itself. */
#ifndef COW_CHAIN_LEVEL_H
#define COW_CHAIN_LEVEL_H

#include "engine/base/result.h"
#include "engine/tool/disk.h"

struct cow_level {
	char *path; /* absolute, owned */
	bool raw;
	uint64_t dev, ino, bytes;
	uint32_t nr_snapshots;
	uint64_t incompatible; /* of a qcow2 image's header */
};

/* -ENOENT: the chain is not that long. */
COW_MUST_CHECK int cow_level_get(const struct cow_disk *disk, unsigned depth,
				 struct cow_level *level);
void cow_level_fini(struct cow_level *level);

/*
 * Closes the images from depth on (>= 1): what they hold reads as zeros that nobody has allocated. No
 * lane is open.
 */
void cow_level_cut(struct cow_disk *disk, unsigned depth);

/*
 * The disk is to get another backing file: what is written to it as zeros must be so in the mapping,
 * also where nothing lies below now.
 */
void cow_level_expect_backing(struct cow_disk *disk);

#endif
