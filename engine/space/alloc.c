/* SPDX-License-Identifier: MIT */
/* See alloc.h: what all queues of an image share. */
#include "engine/space/alloc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/loop/blocking.h"
#include "engine/meta/meta.h"
#include "engine/space/look.h"
#include "engine/space/quarantine.h"
#include "engine/space/reserve.h"

#define RESERVE_DEFAULT_BYTES (16u << 20)

/* Where new clusters are sure to be found without reading the refcounts of old ones. */
static void find_tail(struct cow_alloc *alloc)
{
	uint64_t nr = alloc->reftable->nr;
	alloc->tail = alloc->virgin_cluster;
	if (!alloc->file->block_device)
		return;
	while (nr && !cow_table_get(alloc->reftable, nr - 1))
		nr--;
	alloc->tail = nr * alloc->g->refs_per_block;
}

int cow_alloc_init(struct cow_alloc *alloc, struct cow_meta *meta, struct cow_quarantine *q,
		   uint64_t reserve_bytes)
{
	const struct cow_geometry *g = &meta->core->g;
	struct cow_file *file = meta->core->file;
	cow_mutex_init(&alloc->lock, COW_RANK_ALLOC);
	cow_waitlist_init(&alloc->waiters);
	alloc->busy = false;
	alloc->core = meta->core;
	alloc->meta = meta;
	alloc->quarantine = q;
	alloc->g = g;
	alloc->file = file;
	alloc->reftable = &meta->reftable;
	alloc->file_bytes = file->size_bytes;
	alloc->opened_bytes = alloc->file_bytes;
	alloc->virgin_cluster = (file->size_bytes + g->cluster_bytes - 1) >> g->cluster_bits;
	if (file->block_device)
		alloc->virgin_cluster = UINT64_MAX;
	alloc->cannot_punch = !file->can_punch;
	uint64_t reserve = reserve_bytes ? reserve_bytes : RESERVE_DEFAULT_BYTES;
	alloc->reserve_clusters =
		(uint32_t)cow_max(reserve >> g->cluster_bits, COW_RESERVE_MIN_CLUSTERS);
	find_tail(alloc);
	int ret = cow_freemap_init(&alloc->map, meta->reftable.capacity, g->refs_per_block);
	return ret ? ret : cow_look_init(alloc);
}

/*
 * What a killed process has left in the host's cache is made durable before anything builds on it:
 * its new header (of a snapshot command) may call clusters free that the old one, which power loss
 * would bring back, leads to.
 */
int cow_alloc_prepare_file(struct cow_alloc *alloc, struct cow_loop *loop)
{
	struct cow_file *file = alloc->file;
	uint64_t bytes = cow_round_up(alloc->file_bytes, COW_FILE_ALIGN_BYTES);
	int ret = 0;
	if (!file->block_device && bytes != alloc->file_bytes)
		ret = cow_loop_resize(loop, file, bytes);
	if (ret)
		return ret;
	if (!file->block_device)
		alloc->file_bytes = bytes;
	ret = cow_loop_sync(loop, file);
	if (!ret && file->direct && !file->block_device && file->host->ops->drop_cache)
		file->host->ops->drop_cache(file);
	return ret;
}

void cow_alloc_restart(struct cow_alloc *alloc, uint64_t bytes)
{
	uint64_t end = (bytes + alloc->g->cluster_bytes - 1) >> alloc->g->cluster_bits;
	cow_mutex_lock(&alloc->lock);
	cow_assert(!alloc->busy); /* frozen: no refill */
	alloc->file_bytes = bytes;
	cow_freemap_forget(&alloc->map);
	if (alloc->virgin_cluster != UINT64_MAX)
		alloc->virgin_cluster = cow_max(alloc->virgin_cluster, end);
	find_tail(alloc);
	cow_mutex_unlock(&alloc->lock);
}

void cow_alloc_fini(struct cow_alloc *alloc)
{
	cow_look_fini(alloc);
	cow_freemap_fini(&alloc->map);
}

void cow_alloc_freed(struct cow_alloc *alloc, const struct cow_freed *freed, unsigned nr)
{
	cow_mutex_lock(&alloc->lock);
	for (unsigned i = 0; i < nr; i++)
		cow_freemap_freed(&alloc->map, freed[i].cluster, freed[i].nr);
	cow_mutex_unlock(&alloc->lock);
}
