/* SPDX-License-Identifier: MIT */
/* A disk's mapping, extent by extent. */
#ifndef COW_DISK_MAP_H
#define COW_DISK_MAP_H

#include <stdatomic.h>

#include "engine/base/result.h"
#include "engine/tool/lane.h"

struct cow_disk_map {
	struct cow_disk *disk;
	uint64_t begin, end; /* bytes of the disk */
	const atomic_bool *cancel;
	/* in order; one extent may come in several parts. Not 0: the end, returned. */
	int (*tell)(void *ctx, uint64_t off, const struct cow_extent *e);
	void *ctx;
	uint64_t failed_off; /* after an error of the host or the image */
};

/* loop: the caller's own. */
COW_MUST_CHECK int cow_disk_map(struct cow_loop *loop, struct cow_disk_map *m);

#endif
