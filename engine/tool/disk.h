/* SPDX-License-Identifier: MIT */
/*
 * A disk as the tools of closed images see it: a qcow2 image with its backing chain, or a raw file or
 * block device. What it is the caller says; nothing is probed.
 *
 * Opened and closed on one thread. In between any thread reads and writes it through a lane of its
 * own (lane.h).
 */
#ifndef COW_DISK_H
#define COW_DISK_H

#include "engine/base/result.h"
#include "engine/life/image.h"

enum cow_disk_format { COW_DISK_QCOW2, COW_DISK_RAW };

struct cow_disk;

struct cow_disk_spec {
	const char *path;
	enum cow_disk_format format;
	/* writable, no_lock and buffered mean the same for a raw file; the rest is for qcow2 */
	struct cow_open_options open;
};

/* 0 or -errno with a text that names the file. */
COW_MUST_CHECK int cow_disk_open(struct cow_host *host, struct cow_loop *loop,
				 const struct cow_disk_spec *spec, struct cow_disk **out,
				 struct cow_error *err);
/* No lane is open. Of a disk that was written to: 0 means that all of it is durable. NULL is fine. */
COW_MUST_CHECK int cow_disk_close(struct cow_disk *disk, struct cow_loop *loop,
				  struct cow_error *err);

/*
 * Closes a disk whose file is to be worked on then: that file, which has stayed locked. 0 or -errno:
 * then it is closed as well.
 */
COW_MUST_CHECK int cow_disk_close_keep(struct cow_disk *disk, struct cow_loop *loop,
				       struct cow_file **file, struct cow_error *err);

/* A multiple of 512; what is behind the end of a raw file reads as zeros. */
uint64_t cow_disk_bytes(const struct cow_disk *disk);
/* The unit that a range is mapped by; 512 of a raw file. */
uint32_t cow_disk_cluster_bytes(const struct cow_disk *disk);
/* Which file it is: see cow_image_identity(). */
void cow_disk_identity(const struct cow_disk *disk, uint64_t *dev, uint64_t *ino);
/*
 * Where in the disk's chain that file is: its depth, 0 is the disk itself; -1: nowhere. *reach: up to
 * here (bytes) no image above it, nor itself, is too short for what it holds to show.
 */
COW_MUST_CHECK int cow_disk_find_level(const struct cow_disk *disk, uint64_t dev, uint64_t ino,
				       uint64_t *reach);
/* Is it a file of the disk's: its own, or one of its chain's, data files too? */
bool cow_disk_uses(const struct cow_disk *disk, uint64_t dev, uint64_t ino);
/* A refused write is told of by who uses the disk, under the name that the user knows: not by the log. */
void cow_disk_keep_quiet(struct cow_disk *disk);
/* Does what is written to the disk go into a file that the other is read from? */
bool cow_disk_writes_to(const struct cow_disk *disk, const struct cow_disk *other);
/* The file of the disk's backing file, and its disk's size. False: there is none. */
bool cow_disk_backing(const struct cow_disk *disk, uint64_t *dev, uint64_t *ino, uint64_t *bytes);
/* The same for the level of that depth, which may not be there. */
uint64_t cow_disk_reach(const struct cow_disk *disk, unsigned depth);
const char *cow_disk_path(const struct cow_disk *disk);

#endif
