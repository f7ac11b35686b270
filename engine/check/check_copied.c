/* SPDX-License-Identifier: MIT */
/*
 * COPIED flags of the active tables: set if and only if the refcount is one. Snapshots' tables
 * carry no meaningful flags. The refcount on disk decides, as it will for the next writer: an
 * overstated refcount is a leak and not a wrong flag as well.
 *
 * On the way through the active tables, statistics.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/check/check_copied.h"
#include "engine/check/checker.h"

#define L1_CHUNK_BYTES (64u << 10)

struct walk {
	struct cow_checker *c;
	bool fix;
	/* where the next data cluster would lie unfragmented; 0: first of a table */
	uint64_t next_contiguous;
	uint64_t first, end; /* changed bytes of the L2 table in c->cluster */
};

static void count_normal(struct walk *w, uint64_t off)
{
	struct cow_check_result *r = &w->c->result;
	r->allocated_clusters++;
	if (w->next_contiguous && off != w->next_contiguous)
		r->fragmented_clusters++;
	w->next_contiguous = off + cow_cluster_bytes(&w->c->header);
}

static void count_compressed(struct walk *w)
{
	struct cow_check_result *r = &w->c->result;
	r->allocated_clusters++;
	r->compressed_clusters++;
	r->fragmented_clusters++; /* by its nature */
}

static bool is_one(const struct walk *w, uint64_t off, bool *known)
{
	struct cow_check_cell cell =
		cow_check_cells_get(&w->c->cells, off >> w->c->header.cluster_bits);
	*known = cell.kind != COW_KIND_NONE;
	return cell.disk == COW_DISK_ONE;
}

/* In a data file every cluster belongs to the image alone. */
static bool data_is_one(const struct walk *w, uint64_t off, bool *known)
{
	*known = true;
	return w->c->has_data_file || is_one(w, off, known);
}

static void check_data(struct walk *w, uint32_t at, uint64_t entry)
{
	uint64_t off = entry & QCOW2_OFFSET_MASK;
	bool known, one = data_is_one(w, off, &known);
	if (!known || one == !!(entry & QCOW2_COPIED))
		return;
	cow_checker_corrupt(
		w->c, "ERROR OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount is %sone",
		entry, one ? "" : "not ");
	cow_store64_be(w->c->cluster + at, entry ^ QCOW2_COPIED);
	w->first = at < w->first ? at : w->first;
	w->end = at + 8;
}

static void check_entry(struct walk *w, uint32_t at)
{
	uint64_t entry = cow_load64_be(w->c->cluster + at), off = entry & QCOW2_OFFSET_MASK;
	if (entry & QCOW2_COMPRESSED) {
		count_compressed(w);
		return;
	}
	if (!off && !(w->c->has_data_file && (entry & QCOW2_COPIED)))
		return;
	count_normal(w, off);
	if (!(off & (cow_cluster_bytes(&w->c->header) - 1)))
		check_data(w, at, entry);
}

static int check_table(struct walk *w, uint64_t off)
{
	struct cow_checker *c = w->c;
	uint32_t entry_bytes = c->extended_l2 ? 16 : 8, bytes = cow_cluster_bytes(&c->header);
	w->first = UINT64_MAX;
	w->end = 0;
	w->next_contiguous = 0;
	int ret = cow_checker_read(c, off, c->cluster, bytes);
	for (uint32_t at = 0; at < bytes && !ret; at += entry_bytes)
		check_entry(w, at);
	if (!ret && w->fix &&
	    !cow_check_cells_get(&c->cells, off >> c->header.cluster_bits).suspect)
		ret = cow_checker_write_changed(c, off, c->cluster, w->first, w->end);
	return ret;
}

/* Returns the entry as it ought to be. */
static uint64_t check_l1_entry(struct walk *w, uint64_t idx, uint64_t entry)
{
	bool known, one = is_one(w, entry & QCOW2_OFFSET_MASK, &known);
	if (!known || one == !!(entry & QCOW2_COPIED))
		return entry;
	cow_checker_corrupt(w->c,
			    "ERROR OFLAG_COPIED L2 cluster: l1_index=%" PRIu64 " l1_entry=%" PRIx64
			    " refcount is %sone",
			    idx, entry, one ? "" : "not ");
	return entry ^ QCOW2_COPIED;
}

static bool walkable(const struct walk *w, uint64_t off)
{
	struct cow_check_cell cell =
		cow_check_cells_get(&w->c->cells, off >> w->c->header.cluster_bits);
	return off && !(off & (cow_cluster_bytes(&w->c->header) - 1)) && cell.kind == COW_KIND_L2 &&
	       !cell.conflict;
}

static int check_chunk(struct walk *w, uint64_t l1_idx, uint8_t *chunk, uint64_t n)
{
	uint64_t first = UINT64_MAX, end = 0;
	int ret = 0;
	for (uint64_t i = 0; i < n && !ret; i += 8) {
		uint64_t entry = cow_load64_be(chunk + i);
		if (!walkable(w, entry & QCOW2_OFFSET_MASK))
			continue;
		uint64_t right = check_l1_entry(w, l1_idx + i / 8, entry);
		if (right != entry) {
			cow_store64_be(chunk + i, right);
			first = i < first ? i : first;
			end = i + 8;
		}
		ret = check_table(w, entry & QCOW2_OFFSET_MASK);
	}
	if (!ret && w->fix)
		ret = cow_checker_write_changed(w->c, w->c->header.l1_off + l1_idx * 8, chunk,
						first, end);
	return ret;
}

static bool l1_walkable(const struct cow_checker *c)
{
	struct cow_check_cell cell =
		cow_check_cells_get(&c->cells, c->header.l1_off >> c->header.cluster_bits);
	return c->header.l1_entries && cell.kind == COW_KIND_L1 && !cell.conflict &&
	       !cow_header_verify_l1_inside(&c->header, c->file->size_bytes, NULL);
}

static int walk_l1(struct walk *w, uint8_t *chunk)
{
	struct cow_checker *c = w->c;
	uint64_t bytes = (uint64_t)c->header.l1_entries * 8;
	for (uint64_t done = 0; done < bytes; done += L1_CHUNK_BYTES) {
		uint64_t n = bytes - done < L1_CHUNK_BYTES ? bytes - done : L1_CHUNK_BYTES;
		/* Whole sectors: a changed entry is written back with its sector. */
		int ret = cow_checker_read(c, c->header.l1_off + done, chunk, (n + 511) & ~511ull);
		if (!ret)
			ret = check_chunk(w, done / 8, chunk, n);
		if (ret)
			return ret;
		cow_checker_progress(c, 800 + (unsigned)(200 * done / bytes));
	}
	return 0;
}

/*
 * With leaks only, flags are set when nothing else is wrong: they follow from the refcounts just
 * lowered.
 */
static bool may_fix(const struct cow_checker *c)
{
	return c->fix == COW_REPAIR_ALL ||
	       (c->fix == COW_REPAIR_LEAKS && !c->result.corruptions && !c->incomplete);
}

int cow_check_copied(struct cow_checker *c)
{
	struct walk w = { .c = c, .fix = may_fix(c) };
	if (!l1_walkable(c))
		return 0;
	uint8_t *chunk = cow_buf_alloc(L1_CHUNK_BYTES);
	if (!chunk)
		return -ENOMEM;
	int ret = walk_l1(&w, chunk);
	free(chunk);
	return ret;
}
