/* SPDX-License-Identifier: MIT */
#include "engine/life/image_memory.h"

#include "engine/base/math.h"
#include "engine/base/pages.h"
#include "engine/compress/inflated.h"
#include "engine/image/state.h"

/* Of each image: what it has from the start on, and keeps. */
#define L2_LEAST_BYTES (512u << 10)
#define REFS_LEAST_BYTES (256u << 10)

/* Copies first: once the slots are there, a pass may capture half of them. */
static void grow_cache(struct cow_image *image, struct cow_cache *cache, uint8_t *copies)
{
	unsigned slots;
	while ((slots = cow_cache_next_slots(cache))) {
		if (copies)
			cow_pages_take(copies,
				       cow_min(slots / 2, cache->max_dirty) * cache->slice_bytes);
		cow_cache_grow(cache);
	}
}

static void start_cache(struct cow_image *image, struct cow_cache *cache, uint64_t least_bytes,
			uint8_t *copies, const struct cow_open_options *o)
{
	uint64_t slots = image->core.limits.cache_least;
	if (o->keep_memory)
		least_bytes = UINT64_MAX;
	else if (slots)
		least_bytes = slots * cache->slice_bytes;
	cow_cache_start_small(cache, least_bytes, o->want_memory, o->want_memory_ctx);
	if (copies)
		cow_pages_take(copies,
			       atomic_load(&cache->dirty_room) * (size_t)cache->slice_bytes);
}

void cow_image_start_memory(struct cow_image *image, const struct cow_open_options *options)
{
	bool keep = options->keep_memory;
	if (!keep && !options->want_memory)
		return;
	if (keep)
		cow_inflated_take(image->inflated);
	for (; image && !image->raw; image = image->backing) {
		start_cache(image, &image->meta.l2, L2_LEAST_BYTES, image->meta.writeback.l2_buf,
			    options);
		if (!image->core.writable)
			continue;
		start_cache(image, &image->meta.refs, REFS_LEAST_BYTES,
			    image->meta.writeback.refs_buf, options);
		if (keep)
			cow_writeback_take_all(&image->meta.writeback);
		else
			cow_writeback_take_some(&image->meta.writeback);
	}
}

void cow_image_grow(struct cow_image *image)
{
	for (; image && !image->raw; image = image->backing) {
		grow_cache(image, &image->meta.l2, image->meta.writeback.l2_buf);
		if (image->core.writable)
			grow_cache(image, &image->meta.refs, image->meta.writeback.refs_buf);
	}
}

static void keep_cache(struct cow_cache *cache, uint8_t *copies)
{
	if (copies)
		cow_pages_take(copies, cache->max_dirty * (size_t)cache->slice_bytes);
	cow_cache_keep(cache);
}

void cow_image_keep(struct cow_image *image)
{
	for (; image && !image->raw; image = image->backing) {
		keep_cache(&image->meta.l2, image->meta.writeback.l2_buf);
		if (!image->core.writable)
			continue;
		keep_cache(&image->meta.refs, image->meta.writeback.refs_buf);
		cow_writeback_take_all(&image->meta.writeback);
	}
}

bool cow_image_rest(struct cow_image *image)
{
	bool small = true;
	for (; image && !image->raw; image = image->backing) {
		small &= cow_cache_rest(&image->meta.l2);
		if (!image->core.writable)
			continue;
		small &= cow_cache_rest(&image->meta.refs);
		cow_writeback_rest(&image->meta.writeback);
	}
	return small;
}
