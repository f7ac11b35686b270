/* SPDX-License-Identifier: MIT */
/*
 * The end of a live change, all requests waiting: the last rounds, the tables that are one piece |
 * the header.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/core/switch.h"
#include "engine/life/freeze.h"
#include "engine/life/live_refs.h"
#include "engine/life/live_state.h"
#include "engine/life/live_switch.h"
#include "engine/life/live_tables.h"
#include "engine/snapshot/snapshot_list.h"

/* A round that needs space changes refcounts again; the next one has it at hand. */
#define MAX_ROUNDS 4u

/* ---- places ---- */

static int find_place(struct cow_live *x, uint64_t bytes, uint64_t *off)
{
	uint32_t nr = cow_live_clusters(x, bytes);
	return nr ? cow_live_space_take_run(&x->space, nr, off) : 0;
}

/* Ahead of the freeze: their sizes are known. */
int cow_live_find_places(struct cow_live *x)
{
	uint64_t l1_bytes = x->header.l1_entries * 8ull;
	cow_assert(!x->frozen);
	x->reftable_clusters = cow_core_header(&x->image->core).reftable_clusters;
	int ret = find_place(x, l1_bytes, &x->l1_off);
	if (!ret && x->s->what == COW_LIVE_CREATE)
		ret = find_place(x, l1_bytes, &x->copy_off);
	if (!ret)
		ret = find_place(x, (uint64_t)x->reftable_clusters << x->image->core.g.cluster_bits,
				 &x->reftable_off);
	if (!ret)
		ret = find_place(x, cow_snapshot_list_bytes(x->snapshots, x->header.nr_snapshots),
				 &x->snapshots_off);
	return cow_live_trouble(x, ret);
}

/* ---- what is one piece ---- */

static int write_piece(struct cow_live *x, uint64_t off, void *raw, uint64_t bytes)
{
	int ret = cow_loop_write(x->loop, x->image->core.file, off, raw,
				 (uint64_t)cow_live_clusters(x, bytes)
					 << x->image->core.g.cluster_bits);
	return ret ? cow_error_set(x->err, ret, "cannot write: %s", strerror(-ret)) : 0;
}

static uint8_t *piece(struct cow_live *x, uint64_t bytes)
{
	uint64_t clusters = cow_live_clusters(x, bytes);
	return cow_buf_alloc(cow_max(clusters, 1) << x->image->core.g.cluster_bits);
}

/* CREATE: all is shared from now on. DELETE: a table that only the active L1 leads to is its own. */
static uint64_t l1_entry(const struct cow_live *x, uint64_t idx)
{
	const struct cow_live_table *t = &x->tables[idx];
	uint64_t entry = cow_table_get(&x->image->meta.l1, idx),
		 off = t->shadow ? t->shadow : t->src;
	if (!t->src)
		return 0;
	if (x->s->what == COW_LIVE_CREATE)
		return off;
	bool own = t->shadow || (entry & QCOW2_COPIED) ||
		   cow_delta_is_one(&x->delta, t->src >> x->image->core.g.cluster_bits);
	return off | (own ? QCOW2_COPIED : 0);
}

static int write_l1(struct cow_live *x)
{
	uint64_t bytes = x->header.l1_entries * 8ull;
	uint8_t *raw = piece(x, bytes);
	if (!raw)
		return cow_live_trouble(x, -ENOMEM);
	for (uint64_t i = 0; i < x->nr_tables; i++)
		cow_store64_be(raw + i * 8, l1_entry(x, i));
	int ret = x->l1_off ? write_piece(x, x->l1_off, raw, bytes) : 0;
	if (!ret && x->copy_off)
		ret = write_piece(x, x->copy_off, raw, bytes);
	free(raw);
	return ret;
}

static int write_reftable(struct cow_live *x)
{
	struct cow_image *image = x->image;
	uint64_t bytes = (uint64_t)x->reftable_clusters << image->core.g.cluster_bits;
	uint8_t *raw = piece(x, bytes);
	if (!raw)
		return cow_live_trouble(x, -ENOMEM);
	for (uint64_t i = 0; i < image->meta.reftable.nr && i < bytes / 8; i++) {
		uint64_t shadow = i < x->max_blocks ? x->blocks[i].shadow : 0;
		cow_store64_be(raw + i * 8,
			       shadow ? shadow : cow_table_get(&image->meta.reftable, i));
	}
	int ret = write_piece(x, x->reftable_off, raw, bytes);
	free(raw);
	return ret;
}

static int write_snapshots(struct cow_live *x)
{
	uint32_t nr = x->header.nr_snapshots;
	uint64_t bytes = cow_snapshot_list_bytes(x->snapshots, nr);
	if (!nr)
		return 0;
	uint8_t *raw = piece(x, bytes);
	if (!raw)
		return cow_live_trouble(x, -ENOMEM);
	if (x->s->what == COW_LIVE_CREATE)
		x->snapshots[nr - 1].l1_off = x->copy_off;
	cow_snapshot_list_encode(x->snapshots, nr, raw);
	int ret = write_piece(x, x->snapshots_off, raw, bytes);
	free(raw);
	return ret;
}

/* ---- the switch ---- */

/* From the first failed sync on nobody knows what is on disk: both images are sound. */
static int write_header(struct cow_live *x)
{
	struct cow_image *image = x->image;
	struct cow_header h = cow_core_header(&image->core);
	/* all requests wait, and all that it leads to is written */
	cow_assert(cow_gate_is_shut(&image->gate) && !x->switched && !x->ios.pending);
	uint8_t *sector = cow_buf_alloc(512);
	if (!sector)
		return cow_live_trouble(x, -ENOMEM);
	x->old = h;
	h.l1_off = x->l1_off ? x->l1_off : h.l1_off;
	h.reftable_off = x->reftable_off;
	h.nr_snapshots = x->header.nr_snapshots;
	h.snapshots_off = x->snapshots_off;
	memcpy(sector, image->core.header_sector, 512);
	cow_header_encode(&h, sector, 512);
	bool begun;
	int ret = cow_switch_header(x->loop, image->core.file, sector, &begun);
	free(sector);
	x->switched = !ret;
	return ret ? cow_error_set(x->err, ret, "cannot write the header: %s",
				   strerror(ret == -ENOTRECOVERABLE ? EIO : -ret))
		   : 0;
}

static int do_rest(struct cow_live *x)
{
	cow_assert(x->frozen && x->space.frozen);
	bool create = x->s->what == COW_LIVE_CREATE;
	int ret = create ? cow_live_do_tables(x) : cow_live_do_blocks(x);
	if (ret)
		return ret;
	return create ? cow_live_do_blocks(x) : cow_live_do_tables(x);
}

static int last_rounds(struct cow_live *x)
{
	for (unsigned i = 0; i < MAX_ROUNDS; i++) {
		unsigned refills = x->space.nr_refills;
		int ret = do_rest(x);
		if (ret || x->space.nr_refills == refills)
			return ret;
	}
	return -EAGAIN;
}

int cow_live_switch(struct cow_live *x)
{
	struct cow_snapshot *last = &x->snapshots[x->header.nr_snapshots - 1];
	struct cow_snapshot_date date = { 0 };
	x->frozen = x->space.frozen = true;
	cow_assert(cow_gate_is_shut(&x->image->gate));
	if (x->s->what == COW_LIVE_CREATE) {
		if (x->s->moment)
			x->s->moment(x->s->ctx, &date);
		last->date_sec = date.sec;
		last->date_nsec = date.nsec;
	}
	int ret = last_rounds(x);
	if (!ret && cow_core_header(&x->image->core).reftable_clusters != x->reftable_clusters)
		ret = -EAGAIN; /* it was outgrown meanwhile: there is no place for that */
	if (!ret)
		ret = write_l1(x);
	if (!ret)
		ret = write_reftable(x);
	if (!ret)
		ret = write_snapshots(x);
	if (!ret)
		ret = write_header(x);
	x->space.frozen = false;
	return ret;
}
