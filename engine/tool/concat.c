/* SPDX-License-Identifier: MIT */
/* See concat.h: where a disk lies; a lane that moves from disk to disk. */
#include "engine/tool/concat.h"

#include "engine/base/assert.h"
#include "engine/base/math.h"

uint64_t cow_concat_bytes(const struct cow_concat *concat)
{
	uint64_t bytes = 0;
	for (unsigned i = 0; i < concat->nr; i++)
		bytes += cow_disk_bytes(concat->disks[i]);
	return bytes;
}

unsigned cow_concat_find(const struct cow_concat *concat, uint64_t *off)
{
	unsigned i = 0;
	for (uint64_t here; i + 1 < concat->nr; i++) {
		here = cow_disk_bytes(concat->disks[i]);
		if (*off < here)
			break;
		*off -= here;
	}
	return i;
}

static int open_at(struct cow_concat_lane *lane, uint64_t off)
{
	uint64_t in_disk = off;
	lane->idx = cow_concat_find(lane->concat, &in_disk);
	struct cow_disk *disk = lane->concat->disks[lane->idx];
	lane->begin = off - in_disk;
	lane->end = lane->begin + cow_disk_bytes(disk);
	return cow_lane_open(&lane->lane, disk, lane->loop);
}

int cow_concat_lane_open(struct cow_concat_lane *lane, const struct cow_concat *concat,
			 struct cow_loop *loop)
{
	*lane = (struct cow_concat_lane){ .concat = concat, .loop = loop };
	return open_at(lane, 0);
}

void cow_concat_lane_close(struct cow_concat_lane *lane)
{
	cow_lane_close(&lane->lane);
	*lane = (struct cow_concat_lane){ 0 };
}

static int go_to(struct cow_concat_lane *lane, uint64_t off)
{
	if (lane->lane.disk && off >= lane->begin && off < lane->end)
		return 0;
	cow_lane_close(&lane->lane);
	int ret = open_at(lane, off);
	if (ret) {
		cow_lane_close(&lane->lane); /* the next one tries again */
		return ret;
	}
	cow_assert(off >= lane->begin && off < lane->end);
	return 0;
}

int cow_concat_lane_extent(struct cow_concat_lane *lane, uint64_t off, uint64_t bytes,
			   struct cow_extent *extent)
{
	int ret = go_to(lane, off);
	*extent = (struct cow_extent){ .bytes = cow_min(bytes, 512) };
	if (ret)
		return ret;
	return cow_lane_extent(&lane->lane, off - lane->begin, cow_min(bytes, lane->end - off),
			       extent);
}

int cow_concat_lane_read(struct cow_concat_lane *lane, uint64_t off, uint64_t bytes, void *buf)
{
	uint8_t *to = buf;
	int ret = 0;
	for (uint64_t n; bytes && !ret; off += n, to += n, bytes -= n) {
		n = 0;
		ret = go_to(lane, off);
		if (ret)
			break;
		n = cow_min(bytes, lane->end - off);
		ret = cow_lane_read(&lane->lane, off - lane->begin, n, to);
	}
	return ret;
}
