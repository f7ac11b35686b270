/* SPDX-License-Identifier: MIT */
/* See meta.h. */
#include "engine/meta/meta.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/format/map.h"
#include "engine/loop/blocking.h"

/* Of a read-only image nothing is ever dirty: who waits for a slot waits for a load. */
static void need_writeback(void *ctx, struct cow_loop *loop)
{
	struct cow_meta *meta = ctx;
	if (meta->core->writable)
		cow_commit_kick(&meta->core->commit, loop);
}

int cow_meta_outlive(struct cow_meta *meta, struct cow_core *core, int fd)
{
	int ret = cow_outlive_begin(&meta->outlive, fd);
	if (!ret)
		core->failed_too = &meta->outlive.head->failed;
	return ret;
}

static struct cow_shared *shared(struct cow_meta *meta)
{
	return meta->outlive.head ? &meta->outlive.shared : NULL;
}

static struct cow_table_config table_config(struct cow_meta *meta, uint64_t off, uint64_t nr,
					    uint64_t capacity)
{
	return (struct cow_table_config){
		.shared = shared(meta),
		.off = off,
		.nr = nr,
		.capacity = capacity,
		.max_dirty = meta->core->limits.dirty_blocks,
		.need_writeback = need_writeback,
		.ctx = meta,
	};
}

/* What cannot be read of a table, or is behind the end of the file, becomes entries that are wrong. */
static void salvage_table(struct cow_meta *meta, struct cow_loop *loop, uint64_t off, uint8_t *be,
			  uint64_t bytes)
{
	uint64_t file_bytes = meta->core->file->size_bytes;
	for (uint64_t at = 0, n; at < bytes; at += n) {
		n = cow_min(512, bytes - at);
		if (off + at + n > file_bytes ||
		    cow_loop_read(loop, meta->core->file, off + at, be + at, n))
			memset(be + at, 0xff, n);
	}
}

static int load_table(struct cow_meta *meta, struct cow_loop *loop, struct cow_table *table,
		      const struct cow_table_config *config, const char *what,
		      struct cow_error *err)
{
	int ret = cow_table_init(table, config);
	uint64_t nr = config->nr;
	uint8_t *be = ret ? NULL : cow_buf_alloc(nr * 8);
	if (ret || !be)
		return cow_error_set(err, -ENOMEM, "out of memory for the %s", what);
	ret = cow_loop_read(loop, meta->core->file, config->off, be, nr * 8);
	if (meta->core->salvage && (ret || config->off + nr * 8 > meta->core->file->size_bytes)) {
		salvage_table(meta, loop, config->off, be, nr * 8);
		ret = 0;
	}
	if (!ret)
		cow_table_load(table, be, nr);
	else
		cow_error_set(err, ret, "cannot read the %s: %s", what, strerror(-ret));
	free(be);
	return ret;
}

/* Refcounts need a quarter of what L2 tables need. */
static int init_caches(struct cow_meta *meta, uint64_t bytes)
{
	const struct cow_geometry *g = &meta->core->g;
	struct cow_outlive_head *head = meta->outlive.head;
	struct cow_cache_config config = {
		.file = meta->core->file,
		.slice_bytes = g->slice_bytes,
		.bytes = bytes,
		.limits = &meta->core->limits,
		.shared = shared(meta),
		.place = head ? &head->l2 : NULL,
		.rank = COW_RANK_L2_SHARD,
		.need_writeback = need_writeback,
		.ctx = meta,
	};
	int ret = cow_cache_init(&meta->l2, &config);
	if (ret || !meta->core->writable)
		return ret;
	config.bytes = bytes / 4;
	config.place = head ? &head->refs : NULL;
	config.rank = COW_RANK_REF_SHARD;
	return cow_cache_init(&meta->refs, &config);
}

/*
 * A table past the end of the file would read as if nothing was allocated. Readers
 * learn of it when they get there; nobody writes to such an image.
 */
static int mark_tables_past_end(struct cow_meta *meta, struct cow_error *err)
{
	for (uint64_t i = 0; i < meta->l1.nr; i++) {
		uint64_t entry = cow_table_get(&meta->l1, i);
		if (!entry || cow_map_l1_fault(&meta->core->g, entry) ||
		    (entry & QCOW2_OFFSET_MASK) < meta->core->file->size_bytes)
			continue;
		if (meta->core->writable)
			return cow_error_set(
				err, -EINVAL,
				"L1 entry at offset %llu: its L2 table lies past the end of the "
				"file: repair it with cowblk check --repair all, or attach it "
				"--read-only",
				(unsigned long long)(meta->l1.off + i * 8));
		atomic_store(&meta->l1.entries[i], entry | COW_L1_PAST_END);
	}
	return 0;
}

static int open_for_writing(struct cow_meta *meta, struct cow_loop *loop, struct cow_error *err)
{
	const struct cow_header *h = &meta->core->header;
	struct cow_outlive_head *head = meta->outlive.head;
	uint64_t nr = (uint64_t)h->reftable_clusters << h->cluster_bits >> 3;
	struct cow_table_config config =
		table_config(meta, h->reftable_off, nr, QCOW2_MAX_REFTABLE_BYTES / 8);
	config.place = head ? &head->reftable : NULL;
	int ret = load_table(meta, loop, &meta->reftable, &config, "refcount table", err);
	if (!ret)
		ret = cow_overlap_init(meta, err);
	if (!ret)
		ret = cow_writeback_init(&meta->writeback, meta);
	return ret;
}

int cow_meta_open(struct cow_meta *meta, struct cow_core *core, struct cow_loop *loop,
		  uint64_t cache_bytes, struct cow_error *err)
{
	const struct cow_header *h = &core->header;
	struct cow_outlive_head *head = meta->outlive.head;
	meta->core = core;
	struct cow_table_config config =
		table_config(meta, h->l1_off, h->l1_entries, QCOW2_MAX_L1_BYTES / 8);
	config.place = head ? &head->l1 : NULL;
	int ret = load_table(meta, loop, &meta->l1, &config, "L1 table", err);
	if (!ret)
		ret = mark_tables_past_end(meta, err);
	if (!ret)
		ret = init_caches(meta, cache_bytes);
	if (!ret && core->writable)
		ret = open_for_writing(meta, loop, err);
	return ret;
}

void cow_meta_forget(struct cow_meta *meta)
{
	cow_cache_drop_all(&meta->l2);
	cow_cache_drop_all(&meta->refs);
	cow_overlap_fini(meta);
}

static int reload_table(struct cow_meta *meta, struct cow_loop *loop, struct cow_table *table,
			uint64_t off, uint64_t nr)
{
	uint8_t *be = nr <= table->capacity ? cow_buf_alloc(nr * 8) : NULL;
	if (!be)
		return -ENOMEM;
	int ret = cow_loop_read(loop, meta->core->file, off, be, nr * 8);
	if (!ret) {
		cow_table_load(table, be, nr);
		cow_table_move(table, off, nr);
	}
	free(be);
	return ret;
}

int cow_meta_reload(struct cow_meta *meta, struct cow_loop *loop, struct cow_error *err)
{
	const struct cow_header *h = &meta->core->header;
	int ret = reload_table(meta, loop, &meta->l1, h->l1_off, h->l1_entries);
	if (!ret)
		ret = reload_table(meta, loop, &meta->reftable, h->reftable_off,
				   (uint64_t)h->reftable_clusters << h->cluster_bits >> 3);
	return ret ? ret : cow_overlap_init(meta, err);
}

void cow_meta_fini(struct cow_meta *meta)
{
	cow_cache_fini(&meta->l2);
	cow_cache_fini(&meta->refs);
	cow_table_fini(&meta->l1);
	cow_table_fini(&meta->reftable);
	cow_writeback_fini(&meta->writeback);
	cow_overlap_fini(meta);
	cow_outlive_fini(&meta->outlive);
}
