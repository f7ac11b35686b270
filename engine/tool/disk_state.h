/* SPDX-License-Identifier: MIT */
/* The inside of a disk, for lanes. */
#ifndef COW_DISK_STATE_H
#define COW_DISK_STATE_H

#include "engine/host/file.h"
#include "engine/tool/disk.h"

/* Either image or file is set. */
struct cow_disk {
	struct cow_image *image;
	struct cow_file *file;
	char *path;
	/*
	 * qcow2, of each level: its file is much smaller than what it holds: clusters may be holes
	 * of the host's
	 */
	bool preallocated[COW_MAX_BACKING_DEPTH];
};

#endif
