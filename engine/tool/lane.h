/* SPDX-License-Identifier: MIT */
/*
 * A thread's way to a disk: blocking reads, writes, and the question what a range holds. All of a
 * thread's lanes are on the thread's own loop, so that what the engine has it do for others (a
 * writeback pass) goes on while it waits for anything.
 *
 * Memory: a lane of a qcow2 image takes some 3 MiB for bounce buffers and clusters on their way.
 */
#ifndef COW_LANE_H
#define COW_LANE_H

#include "engine/base/result.h"
#include "engine/tool/disk.h"

/* What a range holds: QEMU's block status. */
struct cow_extent {
	uint64_t bytes; /* of the range, from where was asked; > 0 */
	bool zero;	/* it reads as zeros */
	bool data;	/* it is stored, and must be read to be known */
	bool allocated; /* some image of the chain says so; else there is nothing in any */
	bool plain;	/* stored as it is, not compressed or encrypted */
	bool packed;	/* stored compressed: a cluster can be read as a whole or not at all */
	unsigned depth; /* which image of the chain says so, 0 is the top */
	bool raw;	/* that one is a raw file, which may end inside a sector */
	bool mapped;	/* it has a place in a file, as it is: */
	/* data and plain, or mapped: where */
	struct cow_file *file;
	uint64_t host_off;
};

struct cow_lane {
	struct cow_disk *disk;
	struct cow_loop *loop;
	struct cow_queue *queue; /* qcow2 */
	/* raw: the run of data or hole that was found last; bytes 0: none */
	uint64_t run_off;
	struct cow_extent run;
};

/* Offsets and lengths are multiples of 512 inside the disk, buffers from cow_buf_alloc(). 0 or -errno. */
COW_MUST_CHECK int cow_lane_open(struct cow_lane *lane, struct cow_disk *disk,
				 struct cow_loop *loop);
/* Zeroed or open. */
void cow_lane_close(struct cow_lane *lane);

/* After an error extent->bytes tells how much has the same fault. */
COW_MUST_CHECK int cow_lane_extent(struct cow_lane *lane, uint64_t off, uint64_t bytes,
				   struct cow_extent *extent);
COW_MUST_CHECK int cow_lane_read(struct cow_lane *lane, uint64_t off, uint64_t bytes, void *buf);
COW_MUST_CHECK int cow_lane_write(struct cow_lane *lane, uint64_t off, uint64_t bytes,
				  const void *buf);
/* The range reads as zeros from then on; its space goes back where that is possible. */
COW_MUST_CHECK int cow_lane_zero(struct cow_lane *lane, uint64_t off, uint64_t bytes);

/* Does all of it read as zeros? */
bool cow_lane_is_zero(const void *buf, size_t bytes);

#endif
