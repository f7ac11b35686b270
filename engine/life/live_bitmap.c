/* SPDX-License-Identifier: MIT */
#include "engine/life/live_bitmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/image/state.h"
#include "engine/life/freeze.h"

struct live_change {
	struct cow_image *image;
	const struct cow_bitmap_change *change;
};

/*
 * Frozen, all written back. Whatever becomes of it, the next write finds bitmaps marked as in use,
 * or not valid.
 */
static int change_stored(void *ctx, struct cow_loop *loop, struct cow_file *file,
			 struct cow_error *err)
{
	struct live_change *live = ctx;
	struct cow_image *image = live->image;
	cow_assert(cow_gate_is_shut(&image->gate));
	int ret = cow_tracking_store(&image->tracking, loop, file, err);
	if (ret)
		return ret;
	ret = cow_bitmap_run(loop, file, live->change, err);
	cow_tracking_fini(&image->tracking);
	cow_tracking_start(&image->tracking, loop, &image->core, &image->meta.outlive, NULL);
	if (!image->tracking.kept)
		atomic_store(&image->core.ready_for_write, false);
	return ret;
}

int cow_image_change_bitmaps(struct cow_image *image, struct cow_loop *loop,
			     const struct cow_bitmap_change *change, uint64_t *pause_ns,
			     struct cow_error *err)
{
	struct live_change live = { .image = image, .change = change };
	return cow_image_change_frozen(image, loop, change_stored, &live, pause_ns, err);
}

int cow_image_dump_bitmap(struct cow_image *image, struct cow_loop *loop, const char *name,
			  struct cow_dirty *d, struct cow_error *err)
{
	for (unsigned i = 0; i < image->tracking.nr; i++) {
		const struct cow_dirty *from = &image->tracking.list[i].dirty;
		if (strcmp(image->tracking.list[i].name, name))
			continue;
		if (cow_dirty_init(d, from->size_bytes, from->granularity_bits))
			return cow_error_no_memory(err);
		cow_dirty_merge(d, from);
		return 0;
	}
	return cow_bitmap_dump(loop, image->core.file, name, d, err);
}

int cow_image_list_bitmaps(struct cow_image *image, struct cow_loop *loop, struct cow_bitmap **list,
			   uint32_t *nr, struct cow_error *err)
{
	struct cow_tracking_directory dir;
	int ret = cow_tracking_load_directory(&dir, loop, image->core.file, err);
	for (uint32_t i = 0; i < dir.nr; i++)
		for (unsigned j = 0; j < image->tracking.nr; j++)
			if (dir.list[i].entry_off == image->tracking.list[j].entry_off)
				dir.list[i].flags &= ~COW_BITMAP_IN_USE;
	*list = dir.list;
	*nr = dir.nr;
	return ret;
}
