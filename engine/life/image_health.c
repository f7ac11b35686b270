/* SPDX-License-Identifier: MIT */
/* How the host treats the files of a chain: the sum, for who asks. */
#include "engine/image/state.h"
#include "engine/life/image.h"

static void add_file(struct cow_file *file, struct cow_image_health *out)
{
	struct cow_health_error last = cow_health_last(&file->health);
	for (unsigned i = 0; i < COW_HEALTH_NR; i++)
		out->nr_errors[i] +=
			atomic_load_explicit(&file->health.nr_errors[i], memory_order_relaxed);
	if (last.error && (!out->last.error || last.time_nsec > out->last.time_nsec)) {
		out->last = last;
		out->last_file = file->path;
	}
}

void cow_image_health(const struct cow_image *image, struct cow_image_health *out)
{
	bool in_place = image->core.data != image->core.file;
	*out = (struct cow_image_health){ 0 };
	for (const struct cow_image *i = image; i; i = i->backing) {
		add_file(i->core.file, out);
		if (i->core.data != i->core.file)
			add_file(i->core.data, out);
	}
	if (!image->core.writable || image->core.no_discard)
		return;
	out->cannot_punch = atomic_load(&image->core.data->health.cannot_punch);
	/* zero.c: the holes of an encrypted data file would not read as zeros */
	out->gives_space_back = !out->cannot_punch && !(in_place && image->key);
}
