/* SPDX-License-Identifier: MIT */
#include "engine/tool/disk_map.h"

#include <errno.h>

#include "engine/tool/disk_state.h"

/* A raw file may end inside a sector: what is behind reads as zeros, where the file could go on. */
static int tell_tail(struct cow_disk_map *m, uint64_t off, struct cow_extent *e)
{
	uint64_t end = off + e->bytes;
	uint64_t file_end = e->raw && e->data ? e->file->size_bytes : end;
	if (file_end >= end || file_end <= off)
		return m->tell(m->ctx, off, e);
	struct cow_extent part = *e;
	part.bytes = file_end - off;
	int ret = m->tell(m->ctx, off, &part);
	part.bytes = end - file_end;
	part.host_off += file_end - off;
	part.data = false;
	part.zero = true;
	return ret ? ret : m->tell(m->ctx, file_end, &part);
}

int cow_disk_map(struct cow_loop *loop, struct cow_disk_map *m)
{
	struct cow_lane lane;
	struct cow_extent e;
	int ret = cow_lane_open(&lane, m->disk, loop);
	if (ret)
		return ret;
	for (uint64_t off = m->begin; off < m->end && !ret; off += e.bytes) {
		m->failed_off = off;
		ret = m->cancel && atomic_load(m->cancel) ? -ECANCELED : 0;
		if (!ret)
			ret = cow_lane_extent(&lane, off, m->end - off, &e);
		if (!ret)
			ret = tell_tail(m, off, &e);
	}
	cow_lane_close(&lane);
	return ret;
}
