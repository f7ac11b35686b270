/* SPDX-License-Identifier: MIT */
/* The queue's side of allocation: taking from the reservation. Filling it: refill.c. */
#include "engine/space/alloc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/image/state.h"
#include "engine/loop/blocking.h"
#include "engine/space/look.h"
#include "engine/space/refill.h"

/* Where new clusters are sure to be found without reading the refcounts of old ones. */
static void find_tail(struct cow_image *image)
{
	struct cow_alloc *alloc = &image->alloc;
	uint64_t nr = image->meta.reftable.nr;
	alloc->tail = alloc->virgin_cluster;
	if (!image->core.file->block_device)
		return;
	while (nr && !cow_table_get(&image->meta.reftable, nr - 1))
		nr--;
	alloc->tail = nr * image->core.g.refs_per_block;
}

int cow_alloc_init(struct cow_image *image)
{
	struct cow_alloc *alloc = &image->alloc;
	cow_mutex_init(&alloc->lock, COW_RANK_ALLOC);
	cow_waitlist_init(&alloc->waiters);
	alloc->busy = false;
	alloc->file_bytes = image->core.file->size_bytes;
	alloc->opened_bytes = alloc->file_bytes;
	alloc->virgin_cluster = (image->core.file->size_bytes + image->core.g.cluster_bytes - 1) >>
				image->core.g.cluster_bits;
	if (image->core.file->block_device)
		alloc->virgin_cluster = UINT64_MAX;
	alloc->cannot_punch = !image->core.file->can_punch;
	uint64_t reserve = image->reserve_bytes ? image->reserve_bytes : COW_RESERVE_DEFAULT_BYTES;
	alloc->reserve_clusters =
		(uint32_t)cow_max(reserve >> image->core.g.cluster_bits, COW_RESERVE_MIN_CLUSTERS);
	alloc->g = &image->core.g;
	alloc->file = image->core.file;
	alloc->reftable = &image->meta.reftable;
	find_tail(image);
	int ret = cow_freemap_init(&alloc->map, image->meta.reftable.capacity,
				   image->core.g.refs_per_block);
	return ret ? ret : cow_look_init(alloc);
}

/*
 * What a killed process has left in the host's cache is made durable before anything builds on it:
 * its new header (of a snapshot command) may call clusters free that the old one, which power loss
 * would bring back, leads to.
 */
int cow_alloc_prepare_file(struct cow_image *image, struct cow_loop *loop)
{
	struct cow_file *file = image->core.file;
	uint64_t bytes = cow_round_up(image->alloc.file_bytes, COW_FILE_ALIGN_BYTES);
	int ret = 0;
	if (!file->block_device && bytes != image->alloc.file_bytes)
		ret = cow_loop_resize(loop, file, bytes);
	if (ret)
		return ret;
	if (!file->block_device)
		image->alloc.file_bytes = bytes;
	ret = cow_loop_sync(loop, file);
	if (!ret && file->direct && !file->block_device && file->host->ops->drop_cache)
		file->host->ops->drop_cache(file);
	return ret;
}

void cow_alloc_restart(struct cow_image *image, uint64_t bytes)
{
	struct cow_alloc *alloc = &image->alloc;
	uint64_t end = (bytes + image->core.g.cluster_bytes - 1) >> image->core.g.cluster_bits;
	cow_mutex_lock(&alloc->lock);
	alloc->file_bytes = bytes;
	cow_freemap_forget(&alloc->map);
	if (alloc->virgin_cluster != UINT64_MAX)
		alloc->virgin_cluster = cow_max(alloc->virgin_cluster, end);
	find_tail(image);
	cow_mutex_unlock(&alloc->lock);
}

void cow_alloc_fini(struct cow_image *image)
{
	cow_look_fini(&image->alloc);
	cow_freemap_fini(&image->alloc.map);
}

void cow_reserve_init(struct cow_reserve *reserve, struct cow_image *image)
{
	memset(reserve, 0, sizeof(*reserve));
	reserve->image = image;
	reserve->alloc = &image->alloc;
	reserve->goal_clusters = (uint32_t)cow_min(16, image->alloc.reserve_clusters);
	cow_waitlist_init(&reserve->waiters);
	cow_refill_init(reserve);
}

void cow_reserve_refill(struct cow_reserve *reserve, struct cow_loop *loop)
{
	if (reserve->refilling)
		return;
	reserve->refilling = true;
	cow_refill_start(reserve, loop);
}

void cow_alloc_freed(struct cow_alloc *alloc, const struct cow_freed *freed, unsigned nr)
{
	cow_mutex_lock(&alloc->lock);
	for (unsigned i = 0; i < nr; i++)
		cow_freemap_freed(&alloc->map, freed[i].cluster, freed[i].nr);
	cow_mutex_unlock(&alloc->lock);
}

static void skip_empty(struct cow_reserve *reserve)
{
	while (reserve->pos < reserve->nr && !reserve->extents[reserve->pos].nr)
		reserve->pos++;
}

/* Refill early, so that writers seldom wait for it. */
static void prefetch(struct cow_reserve *reserve, struct cow_loop *loop)
{
	if (reserve->refilling ||
	    reserve->nr - reserve->pos > reserve->image->core.limits.extents / 4)
		return;
	uint64_t left = 0;
	for (unsigned i = reserve->pos; i < reserve->nr; i++)
		left += reserve->extents[i].nr;
	if (left <= reserve->goal_clusters / 4)
		cow_reserve_refill(reserve, loop);
}

void cow_alloc_wait(struct cow_reserve *reserve, struct cow_task *task)
{
	cow_waitlist_park(&reserve->waiters, task);
	cow_reserve_refill(reserve, task->loop);
}

uint32_t cow_alloc_take(struct cow_reserve *reserve, uint32_t want, struct cow_hoff *out,
			bool *zero, struct cow_task *task)
{
	skip_empty(reserve);
	if (reserve->pos == reserve->nr) {
		cow_alloc_wait(reserve, task);
		return 0;
	}
	struct cow_reserved *e = &reserve->extents[reserve->pos];
	uint32_t nr = (uint32_t)cow_min(want, e->nr);
	out->v = e->cluster << reserve->image->core.g.cluster_bits;
	*zero = e->zero;
	e->cluster += nr;
	e->nr -= nr;
	prefetch(reserve, task->loop);
	return nr;
}

bool cow_alloc_peek(const struct cow_reserve *reserve, bool *zero)
{
	for (unsigned i = reserve->pos; i < reserve->nr; i++) {
		if (reserve->extents[i].nr) {
			*zero = reserve->extents[i].zero;
			return true;
		}
	}
	return false;
}

void cow_alloc_return(struct cow_reserve *reserve, struct cow_hoff off, uint32_t nr)
{
	if (reserve->nr == reserve->image->core.limits.extents) {
		cow_quarantine_add(&reserve->image->quarantine,
				   off.v >> reserve->image->core.g.cluster_bits, nr);
		return;
	}
	reserve->extents[reserve->nr++] = (struct cow_reserved){
		.cluster = off.v >> reserve->image->core.g.cluster_bits,
		.nr = nr,
		.zero = false,
	};
}
