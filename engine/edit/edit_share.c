/* SPDX-License-Identifier: MIT */
/*
 * What an L1 table leads to: counting its references, and COPIED flags. Entries are verified on the
 * way, so that an edit of a broken image ends before it has changed anything.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/edit/edit_refcount.h"
#include "engine/edit/edit_share.h"
#include "engine/format/map.h"
#include "engine/edit/edit.h"
#include "engine/edit/edit_fault.h"
#include "engine/loop/blocking.h"

static struct cow_l2_entry get_entry(const struct cow_edit *e, uint32_t at)
{
	return (struct cow_l2_entry){
		.raw = cow_load64_be(e->table + at),
		.subs = e->g.extended_l2 ? cow_load64_be(e->table + at + 8) : 0,
	};
}

/* ---- L1 ---- */

/* Verifies the entry; *table: its L2 table, 0 if there is none. */
static int l1_entry(struct cow_edit *e, uint64_t idx, uint64_t raw, uint64_t *table)
{
	const char *fault = cow_map_l1_fault(&e->g, raw);
	*table = raw & QCOW2_OFFSET_MASK;
	if (!fault && *table && *table >= e->file->size_bytes)
		fault = "L1 entry points past the end of the file";
	if (!fault)
		return 0;
	return cow_error_set(e->err, -EINVAL,
			     "L1 entry %" PRIu64 " (0x%" PRIx64
			     "): %s: repair the image with cowblk "
			     "check --repair all",
			     idx, raw, fault);
}

static int read_table(struct cow_edit *e, uint64_t table)
{
	int ret = cow_loop_read(e->loop, e->file, table, e->table, e->g.cluster_bytes);
	if (ret)
		cow_error_set(e->err, ret, "L2 table at offset %" PRIu64 ": %s", table,
			      strerror(-ret));
	return ret;
}

/* ---- counting ---- */

/* What an entry refers to on the host. bytes 0: nothing. */
static int entry_range(struct cow_edit *e, uint64_t table, uint32_t at, uint64_t *off,
		       uint64_t *bytes)
{
	struct cow_l2_entry entry = get_entry(e, at);
	const char *fault = cow_entry_fault(&e->g, entry);
	*bytes = 0;
	if (fault)
		return cow_edit_corrupt(e, table + at, fault);
	if (entry.raw & QCOW2_COMPRESSED) {
		struct cow_compressed c = cow_compressed_decode(entry.raw, e->g.cluster_bits);
		*off = c.off;
		*bytes = c.bytes;
	} else if (entry.raw & QCOW2_OFFSET_MASK) {
		*off = entry.raw & QCOW2_OFFSET_MASK;
		*bytes = e->g.cluster_bytes;
	}
	return 0;
}

static int share_table(struct cow_edit *e, uint64_t table, int delta)
{
	int ret = cow_edit_count(e, table, e->g.cluster_bytes, delta);
	if (!ret)
		ret = read_table(e, table);
	for (uint32_t at = 0; at < e->g.cluster_bytes && !ret; at += e->g.entry_bytes) {
		uint64_t off, bytes;
		ret = entry_range(e, table, at, &off, &bytes);
		if (!ret && bytes)
			ret = cow_edit_count(e, off, bytes, delta);
	}
	return ret;
}

int cow_edit_share(struct cow_edit *e, const uint64_t *l1, uint64_t nr, int delta)
{
	int ret = 0;
	cow_assert(delta >= -1 && delta <= 1);
	for (uint64_t i = 0; i < nr && !ret; i++) {
		uint64_t table;
		ret = l1_entry(e, i, l1[i], &table);
		if (!ret && table)
			ret = share_table(e, table, delta);
	}
	return ret;
}

/* ---- COPIED ---- */

static int fix_entry(struct cow_edit *e, uint32_t at, bool *changed)
{
	struct cow_l2_entry entry = get_entry(e, at);
	uint64_t count, host = entry.raw & QCOW2_OFFSET_MASK;
	if ((entry.raw & QCOW2_COMPRESSED) || !host)
		return 0;
	int ret = cow_edit_refcount(e, host >> e->g.cluster_bits, &count);
	if (ret || (count == 1) == !!(entry.raw & QCOW2_COPIED))
		return ret;
	cow_store64_be(e->table + at, entry.raw ^ QCOW2_COPIED);
	*changed = true;
	return 0;
}

/*
 * The table in e->table is written to a new place, to which `paths` of the references to the old
 * one go over.
 */
static int move_table(struct cow_edit *e, uint64_t *table, int paths)
{
	uint64_t off;
	cow_assert(paths > 0);
	int ret = cow_edit_alloc(e, 1, &off);
	if (!ret && paths > 1)
		ret = cow_edit_count(e, off, e->g.cluster_bytes, paths - 1);
	if (!ret)
		ret = cow_edit_count(e, *table, e->g.cluster_bytes, -paths);
	if (ret)
		return ret;
	*table = off;
	ret = cow_loop_write(e->loop, e->file, off, e->table, e->g.cluster_bytes);
	return cow_edit_cannot_write(e, ret);
}

static int fix_table(struct cow_edit *e, uint64_t *table, int paths)
{
	bool changed = false;
	int ret = read_table(e, *table);
	for (uint32_t at = 0; at < e->g.cluster_bytes && !ret; at += e->g.entry_bytes)
		ret = fix_entry(e, at, &changed);
	return !ret && changed ? move_table(e, table, paths) : ret;
}

static int fix_l1_entry(struct cow_edit *e, uint64_t idx, int paths)
{
	uint64_t table, count, raw = e->l1[idx];
	int ret = l1_entry(e, idx, raw, &table);
	if (ret || !table)
		return ret;
	ret = fix_table(e, &table, paths);
	if (!ret)
		ret = cow_edit_refcount(e, table >> e->g.cluster_bits, &count);
	if (ret)
		return ret;
	e->l1[idx] = table | (count == 1 ? QCOW2_COPIED : 0);
	e->l1_changed |= e->l1[idx] != raw;
	return 0;
}

int cow_edit_fix_copied(struct cow_edit *e, int paths)
{
	int ret = 0;
	for (uint64_t i = 0; i < e->header.l1_entries && !ret; i++)
		ret = fix_l1_entry(e, i, paths);
	return ret;
}
