/* SPDX-License-Identifier: MIT */
/*
 * The old blocks are read one by one, what they count goes to new ones in memory, and they are given up:
 * the old image keeps them until the header names the new table, and says how wide its refcounts are.
 * The new ones get their places as in any other edit.
 */
#include "engine/edit/edit_width.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "engine/base/assert.h"
#include "engine/base/buf.h"
#include "engine/base/pages.h"
#include "engine/edit/edit_refcount.h"

struct width {
	struct cow_edit *e;
	struct cow_geometry g; /* as it will be */
	struct cow_edit_block *blocks;
	uint64_t nr;
};

static int too_narrow(const struct width *w, uint64_t cluster, uint64_t count)
{
	const struct cow_edit *e = w->e;
	unsigned need = 1;
	while (cow_refcount_max(w->g.refcount_order + need) < count)
		need++;
	return cow_error_set(e->err, -ERANGE,
			     "refcount_bits=%u: too few: the cluster at offset %" PRIu64
			     " is referred to %" PRIu64 " times (snapshots: %" PRIu32
			     "): take %u at least, or delete snapshots",
			     1u << w->g.refcount_order, cluster << e->g.cluster_bits, count,
			     e->header.nr_snapshots, 1u << (w->g.refcount_order + need));
}

/* The new block that counts the cluster. */
static int need_block(struct width *w, uint64_t cluster, struct cow_edit_block **out)
{
	uint64_t idx = cluster / w->g.refs_per_block;
	if (idx >= w->e->max_blocks)
		return cow_error_set(w->e->err, -EFBIG,
				     "refcount_bits=%u: the refcount table would be larger than "
				     "8 MiB",
				     1u << w->g.refcount_order);
	struct cow_edit_block *b = &w->blocks[idx];
	*out = b;
	if (b->counts)
		return 0;
	b->counts = cow_buf_alloc(w->g.cluster_bytes);
	b->used = calloc(1, w->g.refs_per_block / 8 + 1);
	b->dirty = true;
	w->nr = idx + 1; /* they come in order */
	return b->counts && b->used ? 0 : cow_error_no_memory(w->e->err);
}

static int take_over(struct width *w, uint64_t cluster, uint64_t count)
{
	struct cow_edit_block *b = NULL;
	if (count > w->g.max_refcount)
		return too_narrow(w, cluster, count);
	int ret = need_block(w, cluster, &b);
	if (ret)
		return ret;
	uint64_t idx = cluster % w->g.refs_per_block;
	cow_refcount_set(b->counts, w->g.refcount_order, idx, count);
	b->used[idx / 8] |= (uint8_t)(1u << (idx & 7));
	return 0;
}

static int convert_block(struct width *w, uint64_t nr)
{
	struct cow_edit *e = w->e;
	struct cow_edit_block *old = &e->blocks[nr];
	uint64_t first = nr * e->g.refs_per_block, count;
	int ret = old->old_off ? cow_edit_refcount(e, first, &count) : 0; /* loads it */
	for (uint64_t i = 0; old->old_off && i < e->g.refs_per_block && !ret; i++) {
		count = cow_refcount_get(old->counts, e->g.refcount_order, i);
		if (count)
			ret = take_over(w, first + i, count);
	}
	free(old->counts);
	free(old->used);
	old->counts = old->used = NULL;
	return ret;
}

static void free_blocks(const struct cow_edit *e, struct cow_edit_block *blocks, uint64_t nr)
{
	for (uint64_t i = 0; i < nr; i++) {
		free(blocks[i].counts);
		free(blocks[i].used);
	}
	cow_pages_free(blocks, e->max_blocks * sizeof(*blocks));
}

/* The edit goes on with the new blocks; the places of the old ones are no longer counted. */
static int install(struct width *w)
{
	struct cow_edit *e = w->e;
	struct cow_edit_block *old = e->blocks;
	uint64_t nr = e->nr_blocks;
	int ret = 0;
	e->blocks = w->blocks;
	e->nr_blocks = w->nr;
	e->g = w->g;
	e->header.refcount_order = w->g.refcount_order;
	for (uint64_t i = 0; i < nr && !ret; i++)
		if (old[i].old_off)
			ret = cow_edit_count(e, old[i].old_off, e->g.cluster_bytes, -1);
	free_blocks(e, old, nr);
	return ret ? ret : cow_edit_drop_blocks(e);
}

static int set_width(struct cow_edit *e, uint32_t order)
{
	struct cow_header h = e->header;
	struct width w = { .e = e };
	int ret = 0;
	cow_assert(!e->placed && !e->committed && order <= QCOW2_MAX_REFCOUNT_ORDER);
	h.refcount_order = order;
	cow_geometry_init(&w.g, &h);
	w.blocks = cow_pages_reserve(e->max_blocks * sizeof(*w.blocks));
	if (!w.blocks)
		return cow_error_no_memory(e->err);
	for (uint64_t i = 0; i < e->nr_blocks && !ret; i++)
		ret = convert_block(&w, i);
	if (ret) {
		free_blocks(e, w.blocks, w.nr);
		return ret;
	}
	return install(&w);
}

static int change(struct cow_edit *e, uint32_t order)
{
	int ret = set_width(e, order);
	return ret ? ret : cow_edit_commit(e);
}

int cow_edit_width(struct cow_loop *loop, struct cow_file *file, uint32_t order,
		   struct cow_error *err)
{
	struct cow_edit e;
	int ret = cow_edit_open_any(&e, loop, file, err);
	if (ret)
		return ret;
	if (e.header.version == 2 && order != 4)
		ret = cow_error_set(err, -EINVAL,
				    "refcount_bits=%u: version 2 has 16: needs compat=1.1",
				    1u << order);
	else if (e.header.refcount_order != order)
		ret = change(&e, order);
	cow_edit_close(&e);
	return ret;
}
