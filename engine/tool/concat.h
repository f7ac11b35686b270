/* SPDX-License-Identifier: MIT */
/*
 * Disks one behind the other, read as one: qemu-img convert A B C TARGET. A thread's lane is a lane of
 * the disk that it is at, so that memory does not grow with the number of disks.
 */
#ifndef COW_CONCAT_H
#define COW_CONCAT_H

#include "engine/base/result.h"
#include "engine/tool/lane.h"

/* The caller's; the disks stay open. Their sizes add up to INT64_MAX at most. */
struct cow_concat {
	struct cow_disk *const *disks;
	unsigned nr; /* > 0 */
};

uint64_t cow_concat_bytes(const struct cow_concat *concat);
/* Which disk has the byte at *off; *off becomes the offset there. What is behind the end is the last's. */
unsigned cow_concat_find(const struct cow_concat *concat, uint64_t *off);

struct cow_concat_lane {
	const struct cow_concat *concat;
	struct cow_loop *loop;
	/* the disk of the lane, and where that lies */
	unsigned idx;
	uint64_t begin, end;
	struct cow_lane lane;
};

/* As those of lane.h; an extent ends where a disk ends. */
COW_MUST_CHECK int cow_concat_lane_open(struct cow_concat_lane *lane,
					const struct cow_concat *concat, struct cow_loop *loop);
/* Zeroed or open. */
void cow_concat_lane_close(struct cow_concat_lane *lane);
COW_MUST_CHECK int cow_concat_lane_extent(struct cow_concat_lane *lane, uint64_t off,
					  uint64_t bytes, struct cow_extent *extent);
COW_MUST_CHECK int cow_concat_lane_read(struct cow_concat_lane *lane, uint64_t off, uint64_t bytes,
					void *buf);

#endif
