/* SPDX-License-Identifier: MIT */
/* See source.h: one level after the other, until one has it. */
#include "engine/image/source.h"

#include "engine/base/math.h"
#include "engine/image/state.h"
#include "engine/format/map.h"

enum look { LOOK_FOUND, LOOK_BELOW, LOOK_WAIT };

static enum look bad(struct cow_image *image, uint64_t at, const char *rule, struct cow_task *task)
{
	cow_task_fail(task, cow_core_corrupt(&image->core, task->loop, at, rule));
	cow_task_yield(task);
	return LOOK_WAIT;
}

static enum look look_raw(struct cow_image *image, uint64_t off, struct cow_source *s)
{
	s->kind = COW_SOURCE_DATA;
	s->image = image;
	s->host_off = off;
	s->has_host = true;
	return LOOK_FOUND;
}

/*
 * Behind the cluster that the file ends in nothing was ever allocated. In a data file of its own
 * everything may be.
 */
static uint64_t end_of_clusters(const struct cow_image *image)
{
	if (image->core.data != image->core.file)
		return UINT64_MAX;
	return cow_round_up(atomic_load(&image->core.file->size_bytes),
			    image->core.g.cluster_bytes);
}

/* The rule that the entry breaks, in itself or by where it leads. */
static const char *entry_fault(const struct cow_image *image, const struct cow_entry *e)
{
	const struct cow_geometry *g = &image->core.g;
	if (e->kind == COW_BAD)
		return cow_entry_fault(g, (struct cow_l2_entry){ e->raw, e->subs });
	if (e->kind == COW_NORMAL && e->host.v >= end_of_clusters(image))
		return "L2 entry's cluster lies past the end of the file";
	if (e->kind != COW_COMPRESSED)
		return NULL;
	uint64_t off = cow_compressed_decode(e->raw, g->cluster_bits).off;
	if (off >= image->core.file->size_bytes)
		return "L2 entry's compressed data lies past the end of the file";
	return off < g->cluster_bytes ? "L2 entry's compressed data lies over the header" : NULL;
}

/* The run at off in one entry's terms. bytes: what is asked for; s->bytes becomes at most that. */
static enum look look_entry(struct cow_image *image, uint64_t off, const struct cow_run *run,
			    uint64_t bytes, struct cow_source *s)
{
	const struct cow_geometry *g = &image->core.g;
	uint64_t in_cluster = cow_in_cluster(g, off);
	s->bytes = cow_min(bytes, run->bytes);
	s->image = image;
	s->has_host = run->first.has_host && run->first.kind != COW_COMPRESSED;
	s->host_off = run->first.host.v + in_cluster;
	switch (run->first.kind) {
	case COW_UNALLOCATED:
		return LOOK_BELOW;
	case COW_NORMAL:
		s->kind = COW_SOURCE_DATA;
		s->bytes = cow_min(s->bytes, end_of_clusters(image) - s->host_off);
		return LOOK_FOUND;
	case COW_COMPRESSED:
		s->kind = COW_SOURCE_COMPRESSED;
		s->entry = run->first.raw;
		s->in_cluster = in_cluster;
		return LOOK_FOUND;
	default:
		s->kind = COW_SOURCE_ZERO;
		return LOOK_FOUND;
	}
}

/* From off on. */
static uint64_t bytes_of_slice(const struct cow_geometry *g, struct cow_goff off)
{
	uint64_t entries = g->slice_entries - cow_l2_slice_idx(g, off);
	return (entries << g->cluster_bits) - cow_in_cluster(g, off.v);
}

static enum look look_qcow2(struct cow_image *image, uint64_t off, uint64_t bytes,
			    struct cow_source *s, struct cow_task *task)
{
	const struct cow_geometry *g = &image->core.g;
	struct cow_goff goff = { off };
	uint64_t l1_idx = cow_l1_idx(g, goff);
	uint64_t l1 = cow_table_get(&image->meta.l1, l1_idx);
	const char *fault = cow_map_l1_fault(g, l1);
	uint64_t table = l1 & QCOW2_OFFSET_MASK;
	if (fault || !table) {
		uint64_t span = cow_l1_span_bytes(g);
		s->bytes = cow_min(bytes, span - (off & (span - 1)));
		return fault ? bad(image, image->meta.l1.off + l1_idx * 8, fault, task)
			     : LOOK_BELOW;
	}
	uint64_t slice = table + cow_l2_slice_off(g, goff);
	struct cow_slot *slot = cow_cache_get(&image->meta.l2, slice, task);
	if (!slot) {
		s->bytes = cow_min(bytes, bytes_of_slice(g, goff)); /* should it not be read */
		return LOOK_WAIT;
	}
	struct cow_run run = cow_map_run(g, slot->data, goff, bytes);
	cow_cache_put(slot);
	fault = entry_fault(image, &run.first);
	if (fault) {
		s->bytes = cow_min(bytes, g->cluster_bytes - cow_in_cluster(g, off));
		return bad(image, slice + (uint64_t)cow_l2_slice_idx(g, goff) * g->entry_bytes,
			   fault, task);
	}
	return look_entry(image, off, &run, bytes, s);
}

bool cow_source_find(struct cow_image *image, uint64_t off, uint64_t bytes, struct cow_source *s,
		     struct cow_task *task)
{
	for (; image && off < image->core.g.size_bytes; image = image->backing) {
		bytes = cow_min(bytes, image->core.g.size_bytes - off);
		s->bytes = bytes;
		s->last = image;
		s->has_host = false;
		enum look look = image->raw ? look_raw(image, off, s)
					    : look_qcow2(image, off, bytes, s, task);
		if (look == LOOK_WAIT)
			return false;
		if (look == LOOK_FOUND)
			return true;
		bytes = s->bytes;
	}
	s->kind = COW_SOURCE_ZERO;
	s->image = NULL;
	s->bytes = bytes;
	return true;
}

uint32_t cow_source_cluster_bytes(const struct cow_image *image)
{
	uint32_t bytes = 0;
	for (; image; image = image->backing)
		if (!image->raw && image->core.g.cluster_bytes > bytes)
			bytes = image->core.g.cluster_bytes;
	return bytes;
}
