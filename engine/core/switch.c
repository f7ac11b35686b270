/* SPDX-License-Identifier: MIT */
#include "engine/core/switch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/full.h"
#include "engine/loop/blocking.h"

static int write_sector(struct cow_loop *loop, struct cow_file *file, const uint8_t *sector,
			const uint8_t *old, uint8_t *found, bool *begun)
{
	/* A failed fdatasync may have thrown away what it was to write. */
	if (cow_loop_sync(loop, file))
		return -ENOTRECOVERABLE;
	*begun = true;
	/* A full host (copy on write, a thin pool) refuses to overwrite too. */
	int ret = cow_loop_write(loop, file, 0, sector, COW_SWITCH_BYTES);
	if (!ret)
		return cow_loop_sync(loop, file) ? -ENOTRECOVERABLE : 0;
	if (!cow_full_is(ret) || cow_loop_read(loop, file, 0, found, COW_SWITCH_BYTES) ||
	    memcmp(found, old, COW_SWITCH_BYTES))
		return -ENOTRECOVERABLE;
	return ret;
}

int cow_switch_header(struct cow_loop *loop, struct cow_file *file,
		      const uint8_t sector[COW_SWITCH_BYTES], bool *begun)
{
	uint8_t *bufs = cow_buf_alloc(3u * COW_SWITCH_BYTES);
	*begun = false;
	if (!bufs)
		return -ENOMEM;
	uint8_t *old = bufs + COW_SWITCH_BYTES, *found = old + COW_SWITCH_BYTES;
	memcpy(bufs, sector, COW_SWITCH_BYTES);
	int ret = cow_loop_read(loop, file, 0, old, COW_SWITCH_BYTES);
	if (!ret)
		ret = write_sector(loop, file, bufs, old, found, begun);
	free(bufs);
	return ret;
}
