/* SPDX-License-Identifier: MIT */
/*
 * Refcounts of an edit: blocks are loaded when first looked at, changed in memory, and written to
 * new places at the commit.
 *
 * A cluster may be taken if it is free twice: in the image as it stands (`used`), which must
 * survive until the header is switched, and in the image as it will be (`counts`).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/base/pages.h"
#include "engine/edit/edit.h"
#include "engine/edit/edit_fault.h"
#include "engine/edit/edit_refcount.h"
#include "engine/loop/blocking.h"

/* ---- blocks ---- */

int cow_edit_load_refcounts(struct cow_edit *e)
{
	uint64_t bytes = (uint64_t)e->header.reftable_clusters << e->g.cluster_bits;
	uint8_t *raw = cow_buf_alloc(bytes);
	e->nr_blocks = bytes / 8;
	e->max_blocks = QCOW2_MAX_REFTABLE_BYTES / 8;
	/* Few of them are touched; calloc() would have AddressSanitizer mark all 40 MiB, each time. */
	e->blocks = cow_pages_reserve(e->max_blocks * sizeof(*e->blocks));
	int ret = raw && e->blocks ? 0 : -ENOMEM;
	if (!ret)
		ret = cow_loop_read(e->loop, e->file, e->header.reftable_off, raw, bytes);
	if (ret)
		cow_error_set(e->err, ret, "refcount table: %s", strerror(-ret));
	for (uint64_t i = 0; i < e->nr_blocks && !ret; i++) {
		uint64_t off = cow_load64_be(raw + i * 8);
		if (off & (e->g.cluster_bytes - 1) || off >= e->file->size_bytes)
			ret = cow_edit_corrupt(e, e->header.reftable_off + i * 8,
					       "refcount block out of place");
		e->blocks[i].old_off = e->blocks[i].off = off;
	}
	free(raw);
	return ret;
}

void cow_edit_free_refcounts(struct cow_edit *e)
{
	for (uint64_t i = 0; e->blocks && i < e->nr_blocks; i++) {
		free(e->blocks[i].counts);
		free(e->blocks[i].used);
	}
	cow_pages_free(e->blocks, e->max_blocks * sizeof(*e->blocks));
}

static void note_used(struct cow_edit *e, struct cow_edit_block *b)
{
	for (uint64_t i = 0; i < e->g.refs_per_block; i++)
		if (cow_refcount_get(b->counts, e->g.refcount_order, i))
			b->used[i / 8] |= (uint8_t)(1u << (i & 7));
}

static int load_block(struct cow_edit *e, struct cow_edit_block *b)
{
	if (b->counts)
		return 0;
	b->counts = cow_buf_alloc(e->g.cluster_bytes);
	b->used = calloc(1, e->g.refs_per_block / 8 + 1);
	if (!b->counts || !b->used)
		return cow_error_set(e->err, -ENOMEM, "out of memory for refcounts");
	if (!b->old_off)
		return 0;
	int ret = cow_loop_read(e->loop, e->file, b->old_off, b->counts, e->g.cluster_bytes);
	if (ret)
		return cow_error_set(e->err, ret, "refcount block at offset %" PRIu64 ": %s",
				     b->old_off, strerror(-ret));
	note_used(e, b);
	return 0;
}

/* The loaded block that counts the cluster; NULL: there is none, so the cluster is free. */
static int find_block(struct cow_edit *e, uint64_t cluster, struct cow_edit_block **out)
{
	uint64_t idx = cluster / e->g.refs_per_block;
	*out = NULL;
	if (idx >= e->nr_blocks || (!e->blocks[idx].old_off && !e->blocks[idx].counts))
		return 0;
	*out = &e->blocks[idx];
	return load_block(e, *out);
}

/* The same, made if there is none. */
static int need_block(struct cow_edit *e, uint64_t cluster, struct cow_edit_block **out)
{
	uint64_t idx = cluster / e->g.refs_per_block;
	if (idx >= e->max_blocks)
		return cow_error_set(e->err, -EFBIG,
				     "the refcount table would be larger than 8 MiB");
	if (idx >= e->nr_blocks)
		e->nr_blocks = idx + 1;
	*out = &e->blocks[idx];
	return load_block(e, *out);
}

/* ---- counts ---- */

int cow_edit_refcount(struct cow_edit *e, uint64_t cluster, uint64_t *count)
{
	struct cow_edit_block *b;
	*count = 0;
	int ret = find_block(e, cluster, &b);
	if (!ret && b)
		*count = cow_refcount_get(b->counts, e->g.refcount_order,
					  cluster % e->g.refs_per_block);
	return ret;
}

static int too_many(struct cow_edit *e, uint64_t cluster)
{
	return cow_error_set(
		e->err, -ERANGE,
		"refcounts of %u bits cannot count another reference to the cluster at "
		"offset %" PRIu64 ": %s",
		1u << e->g.refcount_order, cluster << e->g.cluster_bits,
		e->g.refcount_order
			? "delete snapshots first"
			: "such an image cannot have snapshots, make one with more refcount bits");
}

static int count_one(struct cow_edit *e, uint64_t cluster, int delta)
{
	struct cow_edit_block *b;
	uint64_t idx = cluster % e->g.refs_per_block, count = 0,
		 less = delta < 0 ? (uint64_t)-delta : 0;
	int ret = find_block(e, cluster, &b);
	if (ret)
		return ret;
	if (b)
		count = cow_refcount_get(b->counts, e->g.refcount_order, idx);
	if (!count || count < less)
		return cow_edit_corrupt(e, cluster << e->g.cluster_bits,
					"a cluster in use has a refcount too low");
	if (delta > 0 && (uint64_t)delta > e->g.max_refcount - count)
		return too_many(e, cluster);
	if (delta) {
		cow_assert(b && !e->committed);
		cow_refcount_set(b->counts, e->g.refcount_order, idx,
				 count + (uint64_t)(int64_t)delta);
		b->dirty = true;
	}
	return 0;
}

int cow_edit_count(struct cow_edit *e, uint64_t off, uint64_t bytes, int delta)
{
	uint64_t first = off >> e->g.cluster_bits, last = (off + bytes - 1) >> e->g.cluster_bits;
	int ret = 0;
	for (uint64_t cluster = first; bytes && cluster <= last && !ret; cluster++)
		ret = count_one(e, cluster, delta);
	return ret;
}

/* ---- allocation ---- */

static int is_free(struct cow_edit *e, uint64_t cluster, bool *yes)
{
	struct cow_edit_block *b;
	uint64_t idx = cluster % e->g.refs_per_block;
	int ret = find_block(e, cluster, &b);
	*yes = !b || !(b->used[idx / 8] & (1u << (idx & 7)) ||
		       cow_refcount_get(b->counts, e->g.refcount_order, idx));
	return ret;
}

/* *first UINT64_MAX: none that ends before `end`. */
static int find_free(struct cow_edit *e, uint64_t nr, uint64_t end, uint64_t *first)
{
	uint64_t run = 0, cluster = e->scan;
	*first = UINT64_MAX;
	for (; run < nr && cluster < end; cluster++) {
		bool yes;
		int ret = is_free(e, cluster, &yes);
		if (ret)
			return ret;
		run = yes ? run + 1 : 0;
	}
	if (run == nr)
		*first = cluster - nr;
	return 0;
}

/* Free in the image as it stands, and in the image as it will be. */
static int take(struct cow_edit *e, uint64_t cluster)
{
	struct cow_edit_block *b = NULL;
	int ret = need_block(e, cluster, &b);
	if (ret)
		return ret;
	uint64_t idx = cluster % e->g.refs_per_block;
	cow_assert(!(b->used[idx / 8] & (1u << (idx & 7))));
	cow_assert(!cow_refcount_get(b->counts, e->g.refcount_order, idx));
	cow_refcount_set(b->counts, e->g.refcount_order, idx, 1);
	b->dirty = true;
	return 0;
}

int cow_edit_alloc_below(struct cow_edit *e, uint64_t nr, uint64_t end, uint64_t *off)
{
	uint64_t first = 0;
	cow_assert(!e->committed);
	int ret = find_free(e, nr, end, &first);
	*off = 0;
	if (!ret && first == UINT64_MAX && nr == 1)
		e->scan = cow_max(e->scan, end); /* who asks again does not look again */
	if (ret || first == UINT64_MAX)
		return ret;
	for (uint64_t i = 0; i < nr && !ret; i++)
		ret = take(e, first + i);
	if (ret)
		return ret;
	if (nr == 1)
		e->scan = first + 1;
	*off = first << e->g.cluster_bits;
	return 0;
}

int cow_edit_alloc(struct cow_edit *e, uint64_t nr, uint64_t *off)
{
	uint64_t scan = e->scan;
	e->scan = cow_max(e->scan, e->tables_from);
	int ret = cow_edit_alloc_below(e, nr, e->max_clusters, off);
	if (e->tables_from)
		e->scan = scan;
	if (!ret && !*off)
		ret = cow_error_set(e->err, -ENOSPC, "no room for new tables: the device is full");
	return ret;
}

int cow_edit_alloc_at(struct cow_edit *e, uint64_t cluster, bool *taken)
{
	*taken = false;
	int ret = cluster < e->max_clusters ? is_free(e, cluster, taken) : 0;
	return ret || !*taken ? ret : take(e, cluster);
}

int cow_edit_give_back(struct cow_edit *e, uint64_t off, uint64_t bytes)
{
	int ret = cow_edit_count(e, off, bytes, -1);
	e->scan = cow_min(e->scan, off >> e->g.cluster_bits);
	return ret;
}

/* ---- the whole ---- */

int cow_edit_usage(struct cow_edit *e, uint64_t *used, uint64_t *end)
{
	*used = *end = 0;
	for (uint64_t i = 0; i < e->nr_blocks; i++) {
		struct cow_edit_block *b;
		int ret = find_block(e, i * e->g.refs_per_block, &b);
		if (ret)
			return ret;
		for (uint64_t at = 0; b && at < e->g.refs_per_block; at++) {
			if (!cow_refcount_get(b->counts, e->g.refcount_order, at))
				continue;
			*used += 1;
			*end = i * e->g.refs_per_block + at + 1;
		}
	}
	return 0;
}

static void forget(struct cow_edit *e, struct cow_edit_block *b, uint64_t idx)
{
	if (!cow_refcount_get(b->counts, e->g.refcount_order, idx))
		return;
	cow_refcount_set(b->counts, e->g.refcount_order, idx, 0);
	b->dirty = true;
}

int cow_edit_forget(struct cow_edit *e, uint64_t from)
{
	cow_assert(!e->placed);
	for (uint64_t i = from / e->g.refs_per_block; i < e->nr_blocks; i++) {
		struct cow_edit_block *b;
		uint64_t first = i * e->g.refs_per_block;
		int ret = find_block(e, first, &b);
		if (ret)
			return ret;
		for (uint64_t at = 0; b && at < e->g.refs_per_block; at++)
			if (first + at >= from)
				forget(e, b, at);
	}
	return 0;
}

int cow_edit_move_blocks(struct cow_edit *e, uint64_t from)
{
	int ret = 0;
	for (uint64_t i = 0; i < e->nr_blocks && !ret; i++) {
		struct cow_edit_block *b = &e->blocks[i];
		if (!b->old_off || b->old_off < from)
			continue;
		ret = load_block(e, b);
		b->dirty = true;
	}
	return ret;
}

/* It counts nothing, or itself alone. */
static bool is_empty(const struct cow_edit *e, const struct cow_edit_block *b)
{
	uint64_t first = (uint64_t)(b - e->blocks) * e->g.refs_per_block;
	if (!b->counts)
		return !b->old_off;
	for (uint64_t i = 0; i < e->g.refs_per_block; i++)
		if (cow_refcount_get(b->counts, e->g.refcount_order, i) &&
		    first + i != b->off >> e->g.cluster_bits)
			return false;
	return true;
}

int cow_edit_drop_blocks(struct cow_edit *e)
{
	cow_assert(!e->placed);
	e->drops_blocks = true;
	for (uint64_t i = 0; i < e->nr_blocks; i++) {
		struct cow_edit_block *b = &e->blocks[i];
		if (!b->counts || !is_empty(e, b))
			continue;
		int ret = b->off ? cow_edit_count(e, b->off, e->g.cluster_bytes, -1) : 0;
		if (ret)
			return ret;
		b->off = 0; /* until something is counted here after all */
		b->dirty = true;
	}
	return 0;
}

/* ---- writing ---- */

/* It stays without a place: nothing was counted there. */
static bool is_dropped(const struct cow_edit *e, const struct cow_edit_block *b)
{
	return e->drops_blocks && !b->off && is_empty(e, b);
}

/*
 * A new place for one block that has changed. That changes others' counts, perhaps: until none is
 * left.
 */
static int place_block(struct cow_edit *e, struct cow_edit_block *b, bool *placed)
{
	bool lost = b->old_off && !b->off; /* dropped, and needed again */
	if (!b->dirty || (b->off != b->old_off && !lost) || is_dropped(e, b))
		return 0;
	cow_assert(b->counts);
	int ret = cow_edit_alloc(e, 1, &b->off);
	if (!ret && b->old_off && !lost)
		ret = cow_edit_count(e, b->old_off, e->g.cluster_bytes, -1);
	*placed = true;
	return ret;
}

static int place_blocks(struct cow_edit *e)
{
	bool placed = true;
	int ret = 0;
	while (placed && !ret) {
		placed = false;
		for (uint64_t i = 0; i < e->nr_blocks && !ret; i++)
			ret = place_block(e, &e->blocks[i], &placed);
	}
	return ret;
}

uint64_t cow_edit_reftable_clusters(const struct cow_edit *e)
{
	uint64_t nr = e->nr_blocks;
	while (e->drops_blocks && nr && !e->blocks[nr - 1].off)
		nr--;
	uint64_t need = (nr * 8 + e->g.cluster_bytes - 1) >> e->g.cluster_bits;
	return e->drops_blocks ? need : cow_max(need, e->header.reftable_clusters);
}

/* The table counts itself: a cluster more when placing it took blocks that it had no room for. */
static int place_table(struct cow_edit *e)
{
	uint64_t had = 0;
	int ret = cow_edit_count(e, e->header.reftable_off,
				 (uint64_t)e->header.reftable_clusters << e->g.cluster_bits, -1);
	while (!ret && had < cow_edit_reftable_clusters(e)) {
		if (had)
			ret = cow_edit_count(e, e->header.reftable_off, had << e->g.cluster_bits,
					     -1);
		had = cow_edit_reftable_clusters(e);
		if (!ret)
			ret = cow_edit_alloc(e, had, &e->header.reftable_off);
		if (!ret)
			ret = place_blocks(e);
	}
	e->header.reftable_clusters = (uint32_t)had;
	return ret;
}

static int write_blocks(struct cow_edit *e)
{
	int ret = 0;
	for (uint64_t i = 0; i < e->nr_blocks && !ret; i++) {
		const struct cow_edit_block *b = &e->blocks[i];
		if (!b->dirty || is_dropped(e, b))
			continue;
		cow_assert(b->off && b->counts &&
			   b->off != b->old_off); /* the old one stays as it is */
		ret = cow_loop_write(e->loop, e->file, b->off, b->counts, e->g.cluster_bytes);
	}
	return ret;
}

static int write_table(struct cow_edit *e)
{
	uint64_t bytes = (uint64_t)e->header.reftable_clusters << e->g.cluster_bits;
	cow_assert(e->drops_blocks || e->nr_blocks * 8 <= bytes);
	uint8_t *raw = cow_buf_alloc(bytes);
	if (!raw)
		return -ENOMEM;
	for (uint64_t i = 0; i < e->nr_blocks; i++) {
		cow_assert(i * 8 < bytes || !e->blocks[i].off);
		if (i * 8 < bytes)
			cow_store64_be(raw + i * 8, e->blocks[i].off);
	}
	int ret = cow_loop_write(e->loop, e->file, e->header.reftable_off, raw, bytes);
	free(raw);
	return ret;
}

int cow_edit_place_refcounts(struct cow_edit *e)
{
	int ret = place_blocks(e);
	if (!ret)
		ret = place_table(e);
	e->placed = true;
	return ret;
}

int cow_edit_write_refcounts(struct cow_edit *e)
{
	int ret = e->placed ? 0 : cow_edit_place_refcounts(e);
	if (ret)
		return ret;
	ret = write_blocks(e);
	if (!ret)
		ret = write_table(e);
	return ret ? cow_error_set(e->err, ret, "cannot write refcounts: %s", strerror(-ret)) : 0;
}

/* ---- afterwards ---- */

static bool was_used(const struct cow_edit_block *b, uint64_t idx)
{
	return b->used && (b->used[idx / 8] & (1u << (idx & 7)));
}

static bool is_used(const struct cow_edit *e, const struct cow_edit_block *b, uint64_t idx)
{
	return b->counts && cow_refcount_get(b->counts, e->g.refcount_order, idx);
}

static bool became_free(const struct cow_edit *e, const struct cow_edit_block *b, uint64_t idx)
{
	return was_used(b, idx) && !is_used(e, b, idx);
}

static bool was_taken(const struct cow_edit *e, const struct cow_edit_block *b, uint64_t idx)
{
	return !was_used(b, idx) && is_used(e, b, idx);
}

static int punch(struct cow_edit *e, uint64_t cluster, uint64_t nr)
{
	return nr ? cow_loop_punch(e->loop, e->file, cluster << e->g.cluster_bits,
				   nr << e->g.cluster_bits)
		  : 0;
}

/* Runs of clusters below `end`, in blocks that changed. */
static int punch_where(struct cow_edit *e, uint64_t end,
		       bool (*where)(const struct cow_edit *e, const struct cow_edit_block *b,
				     uint64_t idx))
{
	uint64_t first = 0, nr = 0;
	int ret = 0;
	for (uint64_t b = 0; e->blocks && b < e->nr_blocks && !ret; b++) {
		for (uint64_t i = 0; i < e->g.refs_per_block && e->blocks[b].dirty && !ret; i++) {
			uint64_t cluster = b * e->g.refs_per_block + i;
			if (cluster >= end || !where(e, &e->blocks[b], i))
				continue;
			if (first + nr != cluster) {
				ret = punch(e, first, nr);
				first = cluster;
				nr = 0;
			}
			nr++;
		}
	}
	return ret ? ret : punch(e, first, nr);
}

int cow_edit_punch_freed(struct cow_edit *e)
{
	cow_assert(e->committed);
	return punch_where(e, UINT64_MAX, became_free);
}

int cow_edit_punch_taken(struct cow_edit *e)
{
	cow_assert(!e->committed);
	return punch_where(e, e->opened_bytes >> e->g.cluster_bits, was_taken);
}
