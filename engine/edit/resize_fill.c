/* SPDX-License-Identifier: MIT */
/*
 * Nothing that the image on disk refers to is written to: an L2 table that gets more entries moves. See
 * edit.h.
 */
#include "engine/edit/resize_fill.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/edit/edit_fault.h"
#include "engine/edit/edit_refcount.h"
#include "engine/edit/edit_share.h"
#include "engine/loop/blocking.h"
#include "engine/loop/zeros.h"

#define ALL_ALLOCATED 0x00000000ffffffffull /* an extended entry's 32 subclusters */
#define ALL_ZERO 0xffffffff00000000ull

struct fill {
	struct cow_edit *e;
	enum cow_preallocation how;
	bool noise; /* what is in the clusters is not zeros: the entries say that they are */
	uint64_t off, bytes; /* of the host clusters that were taken last, in one piece */
	uint64_t end;	     /* of all */
	uint8_t *table;
};

/* ---- host clusters ---- */

static int reserve_piece(struct fill *f)
{
	struct cow_edit *e = f->e;
	int ret = 0;
	if (f->bytes && f->how == COW_PREALLOC_FULL)
		ret = cow_zeros_write(e->loop, e->file, f->off, f->bytes);
	else if (f->bytes && f->how == COW_PREALLOC_FALLOC)
		ret = cow_zeros_reserve(e->loop, e->file, f->off, f->bytes);
	f->bytes = 0;
	return cow_edit_cannot_write(e, ret);
}

static int take(struct fill *f, uint64_t *off)
{
	int ret = cow_edit_alloc(f->e, 1, off);
	if (!ret && f->off + f->bytes != *off) {
		ret = reserve_piece(f);
		f->off = *off;
	}
	f->bytes += f->e->g.cluster_bytes;
	f->end = cow_max(f->end, *off + f->e->g.cluster_bytes);
	return ret;
}

/* ---- tables ---- */

static int fill_entry(struct fill *f, uint8_t *entry)
{
	bool extended = f->e->g.extended_l2;
	uint64_t off;
	if (cow_load64_be(entry) || (extended && cow_load64_be(entry + 8)))
		return 0;
	int ret = take(f, &off);
	if (ret)
		return ret;
	cow_store64_be(entry, off | QCOW2_COPIED | (f->noise && !extended ? QCOW2_ZERO : 0));
	if (extended)
		cow_store64_be(entry + 8, f->noise ? ALL_ZERO : ALL_ALLOCATED);
	return 0;
}

/* f->table: the table as it is. Its clusters are counted by their entries, not by the table's place. */
static int give_up_table(struct fill *f, uint64_t *l1_entry)
{
	struct cow_edit *e = f->e;
	uint64_t old = *l1_entry & QCOW2_OFFSET_MASK;
	memset(f->table, 0, e->g.cluster_bytes);
	if (!*l1_entry)
		return 0;
	int ret = cow_edit_share(e, l1_entry, 1, 0); /* verified before anything is made of it */
	if (ret)
		return ret;
	ret = cow_loop_read(e->loop, e->file, old, f->table, e->g.cluster_bytes);
	if (ret)
		return cow_error_set(e->err, ret, "L2 table at offset %" PRIu64 ": %s", old,
				     strerror(-ret));
	return cow_edit_count(e, old, e->g.cluster_bytes, -1);
}

static int fill_table(struct fill *f, uint64_t nr, uint64_t first, uint64_t last)
{
	struct cow_edit *e = f->e;
	uint64_t off;
	cow_assert(nr < e->header.l1_entries && last <= 1ull << e->g.l2_bits);
	int ret = give_up_table(f, &e->l1[nr]);
	for (uint64_t i = first; i < last && !ret; i++)
		ret = fill_entry(f, f->table + i * e->g.entry_bytes);
	if (!ret)
		ret = reserve_piece(f);
	if (!ret)
		ret = cow_edit_alloc(e, 1, &off);
	if (ret)
		return ret;
	e->l1[nr] = off | QCOW2_COPIED;
	e->l1_changed = true;
	return cow_edit_cannot_write(
		e, cow_loop_write(e->loop, e->file, off, f->table, e->g.cluster_bytes));
}

static int fill_tables(struct fill *f, uint64_t first, uint64_t end)
{
	uint32_t bits = f->e->g.l2_bits;
	int ret = 0;
	for (uint64_t at = first; at < end && !ret;) {
		uint64_t next = cow_min(end, ((at >> bits) + 1) << bits), base = at >> bits << bits;
		ret = fill_table(f, at >> bits, at - base, next - base);
		at = next;
	}
	return ret;
}

/* ---- the whole ---- */

static int begin(struct fill *f)
{
	struct cow_edit *e = f->e;
	bool device = e->file->block_device;
	f->noise = e->header.crypt_method || device;
	if (f->noise && e->header.version == 2 && e->header.crypt_method)
		return cow_error_set(e->err, -ENOTSUP,
				     "preallocation: of an encrypted image it needs version 3: "
				     "cowblk amend -o compat=1.1 first");
	if (device && e->header.version == 2) {
		f->how = COW_PREALLOC_FULL; /* zeros themselves, that is */
		f->noise = false;
	}
	f->table = cow_buf_alloc(e->g.cluster_bytes);
	return f->table ? 0 : cow_error_no_memory(e->err);
}

static int lengthen_file(struct fill *f)
{
	struct cow_edit *e = f->e;
	if (e->file->block_device || f->end <= e->file->size_bytes)
		return 0;
	return cow_edit_cannot_write(e, cow_loop_resize(e->loop, e->file, f->end));
}

int cow_resize_fill(struct cow_edit *e, uint64_t size_bytes, enum cow_preallocation how)
{
	struct fill f = { .e = e, .how = how };
	uint64_t first =
		cow_round_up(e->header.size_bytes, e->g.cluster_bytes) >> e->g.cluster_bits;
	uint64_t end = cow_round_up(size_bytes, e->g.cluster_bytes) >> e->g.cluster_bits;
	uint64_t scan = e->scan;
	if (how == COW_PREALLOC_OFF)
		return 0;
	int ret = begin(&f);
	if (!e->file->block_device) /* what is free before may hold anything */
		e->scan = cow_max(scan, cow_round_up(e->opened_bytes, e->g.cluster_bytes) >>
						e->g.cluster_bits);
	if (!ret)
		ret = fill_tables(&f, first, end);
	if (!ret)
		ret = lengthen_file(&f);
	e->scan = scan;
	free(f.table);
	return ret;
}
