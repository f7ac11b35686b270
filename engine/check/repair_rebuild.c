/* SPDX-License-Identifier: MIT */
/*
 * Refcount structures made anew from what was counted: new blocks and a new table behind everything
 * else, a barrier, then the header points to them (offset and length in one sector). The old ones
 * are left alone until then and abandoned after it.
 *
 * States: nothing written reaches the reader before the header does, so a crash leaves the old
 * image or the new one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/check/checker.h"
#include "engine/check/repair_rebuild.h"
#include "engine/loop/blocking.h"

struct rebuild {
	struct cow_checker *c;
	uint64_t per_block;  /* clusters that one block counts */
	uint64_t max_blocks; /* the most that a table may name */
	uint8_t *needed;     /* per block index: 1 if it counts anything */
	uint64_t nr_blocks;  /* needed ones */
	uint64_t last_idx;   /* of the last needed block */
	uint64_t first;	     /* first new cluster: blocks, then the table */
	uint64_t table_clusters;
};

/*
 * What the new structures shall say. Old ones count nothing; where references could not be followed
 * nothing is lowered.
 */
static uint64_t wanted_refcount(const struct rebuild *r, uint64_t cluster, uint64_t disk)
{
	struct cow_check_cell cell = cow_check_cells_get(&r->c->cells, cluster);
	uint64_t max = cow_refcount_max(r->c->header.refcount_order), refs = cell.refs;
	if (cluster >= r->first && cluster < r->first + r->nr_blocks + r->table_clusters)
		return 1;
	if (cell.kind == COW_KIND_REFTABLE || cell.kind == COW_KIND_REFBLOCK)
		return 0;
	if (r->c->incomplete && disk > refs)
		refs = disk;
	return refs < max ? refs : max;
}

static uint64_t old_block(const struct rebuild *r, uint64_t idx)
{
	return idx < r->c->nr_reftable ? r->c->reftable[idx] : 0;
}

/* ---- which blocks ---- */

static int need(struct rebuild *r, uint64_t idx)
{
	if (idx >= r->max_blocks)
		return -EFBIG;
	if (!r->needed[idx]) {
		r->needed[idx] = 1;
		r->nr_blocks++;
		r->last_idx = idx > r->last_idx ? idx : r->last_idx;
	}
	return 0;
}

static int need_for_references(struct rebuild *r)
{
	struct cow_checker *c = r->c;
	int ret = 0;
	uint64_t i = cow_check_cells_next(&c->cells, 0);
	for (; i != UINT64_MAX && !ret; i = cow_check_cells_next(&c->cells, i + 1))
		if (cow_check_cells_get(&c->cells, i).refs)
			ret = need(r, i / r->per_block);
	for (uint64_t idx = 0; c->incomplete && idx < c->nr_reftable && !ret; idx++)
		if (old_block(r, idx))
			ret = need(r, idx);
	return ret;
}

/* The new structures count themselves: go on until they are covered. */
static int need_for_themselves(struct rebuild *r)
{
	uint32_t bytes = cow_cluster_bytes(&r->c->header);
	for (;;) {
		uint64_t before = r->nr_blocks;
		r->table_clusters = ((r->last_idx + 1) * 8 + bytes - 1) / bytes;
		uint64_t last = r->first + r->nr_blocks + r->table_clusters - 1;
		for (uint64_t idx = r->first / r->per_block; idx <= last / r->per_block; idx++) {
			int ret = need(r, idx);
			if (ret)
				return ret;
		}
		uint64_t table = ((r->last_idx + 1) * 8 + bytes - 1) / bytes;
		if (r->nr_blocks == before && table == r->table_clusters)
			return 0;
	}
}

static uint64_t last_referenced(const struct cow_check_cells *map)
{
	uint64_t last = 0;
	for (uint64_t i = cow_check_cells_next(map, 0); i != UINT64_MAX;
	     i = cow_check_cells_next(map, i + 1))
		if (cow_check_cells_get(map, i).refs)
			last = i;
	return last;
}

/* A file grows; in a device of fixed size there must be room behind the last cluster in use. */
static int choose_place(struct rebuild *r, struct cow_error *err)
{
	struct cow_checker *c = r->c;
	r->first = last_referenced(&c->cells) + 1;
	if (!c->file->block_device && r->first < c->nr_clusters)
		r->first = c->nr_clusters;
	if (c->file->block_device && c->incomplete)
		r->first = (c->last_cluster >= r->first ? c->last_cluster + 1 : r->first);
	int ret = need_for_references(r);
	if (!ret)
		ret = need_for_themselves(r);
	if (ret)
		return cow_error_set(err, ret,
				     "repair: the refcount table would be larger than 8 MiB");
	if (c->file->block_device && r->first + r->nr_blocks + r->table_clusters > c->nr_clusters)
		return cow_error_set(err, -ENOSPC,
				     "repair: no room behind cluster %" PRIu64
				     " for new refcount blocks: "
				     "use a larger device",
				     r->first - 1);
	return 0;
}

/* ---- writing ---- */

static int fill_block(struct rebuild *r, uint64_t idx)
{
	struct cow_checker *c = r->c;
	uint32_t order = c->header.refcount_order;
	uint64_t old = c->incomplete ? old_block(r, idx) : 0;
	memset(c->cluster, 0, cow_cluster_bytes(&c->header));
	if (old) {
		int ret = cow_checker_read(c, old, c->cluster2, cow_cluster_bytes(&c->header));
		if (ret)
			return ret;
	}
	for (uint64_t i = 0; i < r->per_block; i++) {
		uint64_t disk = old ? cow_refcount_get(c->cluster2, order, i) : 0;
		uint64_t refs = wanted_refcount(r, idx * r->per_block + i, disk);
		if (refs)
			cow_refcount_set(c->cluster, order, i, refs);
	}
	return 0;
}

static int write_blocks(struct rebuild *r, uint8_t *table)
{
	struct cow_checker *c = r->c;
	uint32_t bits = c->header.cluster_bits;
	uint64_t at = r->first << bits;
	for (uint64_t idx = 0; idx <= r->last_idx; idx++) {
		if (!r->needed[idx])
			continue;
		int ret = fill_block(r, idx);
		if (!ret)
			ret = cow_loop_write(c->loop, c->file, at, c->cluster,
					     cow_cluster_bytes(&c->header));
		if (ret)
			return ret;
		cow_store64_be(table + idx * 8, at);
		at += cow_cluster_bytes(&c->header);
	}
	cow_assert(at == (r->first + r->nr_blocks) << bits); /* where the header will find it */
	return cow_loop_write(c->loop, c->file, at, table, r->table_clusters << bits);
}

static int switch_header(struct rebuild *r)
{
	struct cow_checker *c = r->c;
	uint8_t *sector = cow_buf_alloc(512);
	int ret = sector ? cow_checker_read(c, 0, sector, 512) : -ENOMEM;
	if (!ret) {
		c->header.reftable_off = (r->first + r->nr_blocks) << c->header.cluster_bits;
		c->header.reftable_clusters = (uint32_t)r->table_clusters;
		cow_store64_be(sector + offsetof(struct qcow2_header_be, refcount_table_offset),
			       c->header.reftable_off);
		cow_store32_be(sector + offsetof(struct qcow2_header_be, refcount_table_clusters),
			       c->header.reftable_clusters);
		ret = cow_loop_write(c->loop, c->file, 0, sector, 512);
	}
	if (!ret)
		ret = cow_loop_sync(c->loop, c->file);
	free(sector);
	return ret;
}

static int write_all(struct rebuild *r, struct cow_error *err)
{
	struct cow_checker *c = r->c;
	uint8_t *table = cow_buf_alloc(r->table_clusters << c->header.cluster_bits);
	if (!table)
		return cow_error_set(err, -ENOMEM, "repair: out of memory");
	int ret = write_blocks(r, table);
	if (!ret)
		ret = cow_loop_sync(c->loop, c->file);
	if (!ret)
		ret = switch_header(r);
	free(table);
	return ret ? cow_error_set(err, ret, "repair: cannot write: %s", strerror(-ret)) : 0;
}

/* Flags follow from the refcounts just written. */
static void note_disk(struct rebuild *r)
{
	struct cow_check_cells *map = &r->c->cells;
	for (uint64_t i = cow_check_cells_next(map, 0); i != UINT64_MAX;
	     i = cow_check_cells_next(map, i + 1)) {
		struct cow_check_cell *cell = cow_check_cells_at(map, i);
		cow_assert(cell); /* only existing ones are walked */
		if (cell->kind == COW_KIND_NONE)
			continue;
		/*
		 * Where nothing was lowered the refcount may be larger: `disk` stands from the
		 * comparison.
		 */
		uint32_t refs = r->c->incomplete && cell->disk == COW_DISK_MANY ? COW_CHECK_MAX_REFS
										: cell->refs;
		cell->disk = refs == 0 ? COW_DISK_ZERO : refs == 1 ? COW_DISK_ONE : COW_DISK_MANY;
	}
}

int cow_repair_rebuild(struct cow_checker *c, struct cow_error *err)
{
	struct rebuild r = {
		.c = c,
		.per_block =
			(uint64_t)cow_cluster_bytes(&c->header) * 8 >> c->header.refcount_order,
		.max_blocks = QCOW2_MAX_REFTABLE_BYTES / 8,
	};
	cow_assert(c->fix == COW_REPAIR_ALL && c->need_rebuild);
	r.needed = calloc(r.max_blocks, 1);
	if (!r.needed)
		return cow_error_set(err, -ENOMEM, "repair: out of memory");
	int ret = choose_place(&r, err);
	if (!ret)
		ret = write_all(&r, err);
	if (!ret)
		note_disk(&r);
	free(r.needed);
	return ret;
}
