/* SPDX-License-Identifier: MIT */
/*
 * The refcount structures: which blocks are usable, and what they say against what was counted.
 *
 * They are marked last. What they overlap is worth more than they are: they can be made anew.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/check/check_refcount.h"
#include "engine/check/checker.h"

static void broken(struct cow_checker *c, const char *what, uint64_t idx, uint64_t entry,
		   const char *why)
{
	cow_checker_corrupt(c, "ERROR %s %" PRIu64 " (0x%" PRIx64 ") %s", what, idx, entry, why);
	c->need_rebuild = true;
}

/* A cluster that nothing else uses; marks it. */
static bool take_cluster(struct cow_checker *c, uint64_t off, enum cow_check_kind kind, int *error)
{
	struct cow_check_cell *cell = cow_check_cells_at(&c->cells, off >> c->header.cluster_bits);
	if (!cell)
		*error = -ENOMEM;
	if (!cell || cell->kind != COW_KIND_NONE)
		return false;
	cell->kind = kind;
	cell->refs = 1;
	return true;
}

static void untake(struct cow_checker *c, uint64_t off)
{
	struct cow_check_cell *cell = cow_check_cells_at(&c->cells, off >> c->header.cluster_bits);
	cow_assert(cell && cell->kind == COW_KIND_REFTABLE);
	*cell = (struct cow_check_cell){ 0 };
}

static bool inside(const struct cow_checker *c, uint64_t off)
{
	return off >> c->header.cluster_bits < c->nr_clusters;
}

/* ---- table ---- */

/* True: all its clusters are its own. */
static bool take_table(struct cow_checker *c, int *error)
{
	uint32_t bits = c->header.cluster_bits;
	for (uint32_t i = 0; i < c->header.reftable_clusters; i++) {
		if (take_cluster(c, c->header.reftable_off + ((uint64_t)i << bits),
				 COW_KIND_REFTABLE, error))
			continue;
		broken(c, "refcount table cluster", i,
		       c->header.reftable_off + ((uint64_t)i << bits),
		       "is used for something else too");
		while (i--)
			untake(c, c->header.reftable_off + ((uint64_t)i << bits));
		return false;
	}
	return true;
}

/* The entry's block if it can be used, else 0. */
static uint64_t take_block(struct cow_checker *c, uint64_t idx, uint64_t entry, int *error)
{
	if (!entry)
		return 0;
	if (entry & QCOW2_REFTABLE_RESERVED)
		broken(c, "refcount table entry", idx, entry, "has reserved bits set");
	else if (entry & (cow_cluster_bytes(&c->header) - 1))
		broken(c, "refcount block", idx, entry, "is not cluster-aligned");
	else if (!inside(c, entry))
		broken(c, "refcount block", idx, entry, "is outside the image");
	else if (take_cluster(c, entry, COW_KIND_REFBLOCK, error))
		return entry;
	else
		broken(c, "refcount block", idx, entry, "is used for something else too");
	return 0;
}

int cow_check_load_reftable(struct cow_checker *c)
{
	struct cow_error err = { 0 };
	int ret = 0;
	if (!cow_header_reftable_ok(&c->header, c->file->size_bytes, &err)) {
		cow_checker_corrupt(c, "ERROR %s", err.text);
		c->need_rebuild = true;
		return 0;
	}
	if (!take_table(c, &ret))
		return ret;
	uint64_t bytes = (uint64_t)c->header.reftable_clusters << c->header.cluster_bits;
	uint8_t *raw = cow_buf_alloc(bytes);
	c->reftable = calloc(bytes / 8, 8);
	if (!raw || !c->reftable) {
		free(raw);
		return -ENOMEM;
	}
	c->nr_reftable = bytes / 8;
	ret = cow_checker_read(c, c->header.reftable_off, raw, bytes);
	for (uint64_t i = 0; i < c->nr_reftable && !ret; i++)
		c->reftable[i] = take_block(c, i, cow_load64_be(raw + i * 8), &ret);
	free(raw);
	return ret;
}

/* ---- compare ---- */

/* A refcount block being compared. */
struct block {
	uint64_t off; /* 0: missing */
	uint64_t first_cluster, nr;
	uint64_t changed_first, changed_end; /* bytes */
};

static void set_disk(struct cow_checker *c, uint64_t cluster, uint64_t refcount)
{
	struct cow_check_cell cell = cow_check_cells_get(&c->cells, cluster);
	if (cell.kind == COW_KIND_NONE)
		return;
	cow_check_cells_at(&c->cells, cluster)->disk = refcount == 0   ? COW_DISK_ZERO
						       : refcount == 1 ? COW_DISK_ONE
								       : COW_DISK_MANY;
}

static bool may_fix(const struct cow_checker *c, uint64_t disk, uint64_t refs)
{
	if (disk > refs)
		return c->fix != COW_REPAIR_NONE && !c->incomplete;
	return c->fix == COW_REPAIR_ALL && refs <= cow_refcount_max(c->header.refcount_order);
}

static void fix_refcount(struct cow_checker *c, struct block *b, uint64_t cluster, uint64_t refs)
{
	uint64_t idx = cluster - b->first_cluster, byte = idx << c->header.refcount_order >> 3;
	uint64_t width =
		(1u << c->header.refcount_order) > 8 ? (1u << c->header.refcount_order) / 8 : 1;
	cow_assert(c->fix != COW_REPAIR_NONE && idx < b->nr);
	cow_refcount_set(c->cluster, c->header.refcount_order, idx, refs);
	if (byte < b->changed_first)
		b->changed_first = byte;
	b->changed_end = byte + width;
	set_disk(c, cluster, refs);
}

static void report(struct cow_checker *c, uint64_t cluster, uint64_t disk, uint64_t refs)
{
	if (disk > refs) {
		c->result.leaks++;
		cow_checker_tell(
			c, "Leaked cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
			cluster, disk, refs);
		return;
	}
	cow_checker_corrupt(
		c, "ERROR cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64 "%s",
		cluster, disk, refs,
		refs > cow_refcount_max(c->header.refcount_order) ? " (does not fit)" : "");
}

enum purpose {
	REPORT,
	FIX,
};

static void compare_one(struct cow_checker *c, struct block *b, uint64_t cluster,
			enum purpose purpose)
{
	uint64_t refs = cow_check_cells_get(&c->cells, cluster).refs, disk = 0;
	if (b->off)
		disk = cow_refcount_get(c->cluster, c->header.refcount_order,
					cluster - b->first_cluster);
	if (disk || refs)
		c->last_cluster = cluster > c->last_cluster ? cluster : c->last_cluster;
	if (purpose == REPORT) {
		set_disk(c, cluster, disk);
		if (disk != refs)
			report(c, cluster, disk, refs);
		if (refs && !b->off)
			c->need_rebuild = true;
	} else if (disk != refs && b->off && may_fix(c, disk, refs)) {
		fix_refcount(c, b, cluster, refs);
	}
}

static int compare_block(struct cow_checker *c, struct block *b, enum purpose purpose)
{
	int ret = cow_checker_read(c, b->off, c->cluster, cow_cluster_bytes(&c->header));
	if (ret)
		return ret;
	b->changed_first = UINT64_MAX;
	b->changed_end = 0;
	for (uint64_t i = 0; i < b->nr; i++)
		compare_one(c, b, b->first_cluster + i, purpose);
	return cow_checker_write_changed(c, b->off, c->cluster, b->changed_first, b->changed_end);
}

/*
 * Without a block only clusters that something refers to matter. Returns the cluster to go on with.
 */
static uint64_t compare_missing(struct cow_checker *c, struct block *b, enum purpose purpose)
{
	uint64_t end = b->first_cluster + b->nr;
	uint64_t i = cow_check_cells_next(&c->cells, b->first_cluster);
	for (; i < end; i = cow_check_cells_next(&c->cells, i + 1))
		compare_one(c, b, i, purpose);
	return i;
}

/* Clusters to compare: the file's, and the one behind it if a compressed cluster ends there. */
static uint64_t nr_to_compare(const struct cow_checker *c)
{
	return c->nr_clusters + (cow_check_cells_get(&c->cells, c->nr_clusters).refs ? 1 : 0);
}

/* Behind a missing block: on to the next block, or over all the missing ones that count nothing. */
static uint64_t skip_missing(const struct cow_checker *c, uint64_t idx, uint64_t per_block,
			     uint64_t next_touched)
{
	for (idx++; idx < c->nr_reftable && !c->reftable[idx]; idx++)
		if (next_touched / per_block <= idx)
			break;
	if (idx >= c->nr_reftable && next_touched / per_block > idx)
		return next_touched / per_block * per_block;
	return idx * per_block;
}

static int compare(struct cow_checker *c, enum purpose purpose)
{
	uint64_t per_block =
		(uint64_t)cow_cluster_bytes(&c->header) * 8 >> c->header.refcount_order;
	uint64_t total = nr_to_compare(c), cluster = 0;
	while (cluster < total) {
		uint64_t idx = cluster / per_block;
		struct block b = { .first_cluster = cluster, .nr = per_block };
		b.off = idx < c->nr_reftable ? c->reftable[idx] : 0;
		if (total - cluster < per_block)
			b.nr = total - cluster;
		if (b.off) {
			int ret = compare_block(c, &b, purpose);
			if (ret)
				return ret;
			cluster += per_block;
		} else {
			cluster = skip_missing(c, idx, per_block, compare_missing(c, &b, purpose));
		}
		cow_checker_progress(
			c, 600 + (unsigned)(200 * (cluster < total ? cluster : total) / total));
	}
	return 0;
}

int cow_check_compare(struct cow_checker *c)
{
	return compare(c, REPORT);
}

int cow_check_fix_refcounts(struct cow_checker *c)
{
	return compare(c, FIX);
}
