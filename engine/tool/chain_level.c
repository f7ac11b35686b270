/* SPDX-License-Identifier: MIT */
#include "engine/tool/chain_level.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/image/state.h"
#include "engine/life/chain.h"
#include "engine/life/open.h"
#include "engine/tool/disk_state.h"

static struct cow_image *level_of(const struct cow_disk *disk, unsigned depth)
{
	struct cow_image *image = disk->image;
	for (; image && depth; depth--)
		image = image->backing;
	return image;
}

int cow_level_get(const struct cow_disk *disk, unsigned depth, struct cow_level *level)
{
	struct cow_image *image = level_of(disk, depth);
	if (!image)
		return -ENOENT;
	const struct cow_header header = cow_core_header(&image->core);
	*level = (struct cow_level){
		.path = strdup(image->core.path),
		.raw = image->raw,
		.dev = image->core.file->dev,
		.ino = image->core.file->ino,
		.bytes = image->core.g.size_bytes,
		.nr_snapshots = header.nr_snapshots,
		.incompatible = header.incompatible,
	};
	return level->path ? 0 : -ENOMEM;
}

void cow_level_fini(struct cow_level *level)
{
	free(level->path);
	*level = (struct cow_level){ 0 };
}

void cow_level_cut(struct cow_disk *disk, unsigned depth)
{
	struct cow_image *above = level_of(disk, depth - 1);
	if (!above)
		return;
	cow_image_free(above->backing);
	above->backing = NULL;
}

void cow_level_expect_backing(struct cow_disk *disk)
{
	disk->image->backing_bytes = UINT64_MAX;
}
