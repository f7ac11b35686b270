/* SPDX-License-Identifier: MIT */
#include "engine/image/state.h"
#include "engine/life/image.h"

void cow_image_each_file(const struct cow_image *image,
			 void (*each)(void *ctx, struct cow_file *file), void *ctx)
{
	for (const struct cow_image *i = image; i; i = i->backing) {
		each(ctx, i->core.file);
		if (i->core.data != i->core.file)
			each(ctx, i->core.data);
	}
}
