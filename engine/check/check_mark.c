/* SPDX-License-Identifier: MIT */
/*
 * References from the header: itself, the L1 tables of the image and its snapshots, the snapshot
 * table, the encryption header.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/check/check_bitmap.h"
#include "engine/check/check_mark.h"
#include "engine/check/checker.h"

#define L1_CHUNK_BYTES (64u << 10)

static int mark_snapshot_table(struct cow_checker *c)
{
	struct cow_error err = { 0 };
	if (!cow_header_snapshots_ok(&c->header, c->file->size_bytes, &err)) {
		cow_checker_corrupt(c, "ERROR %s", err.text);
		c->incomplete = true;
		return 0;
	}
	int ret = cow_load_snapshots(c->loop, c->file, &c->header, &c->snapshots,
				     &c->snapshot_table_bytes, &err);
	if (ret == -EINVAL) {
		cow_checker_corrupt(c, "ERROR %s", err.text);
		c->incomplete = true;
		return 0;
	}
	if (ret)
		return ret;
	c->nr_snapshots = c->header.nr_snapshots;
	return cow_checker_mark(c, c->header.snapshots_off, c->snapshot_table_bytes,
				COW_KIND_SNAPSHOTS, 1, NULL);
}

int cow_check_mark_fixed(struct cow_checker *c)
{
	int ret = cow_checker_mark(c, 0, cow_cluster_bytes(&c->header), COW_KIND_HEADER, 1, NULL);
	if (!ret && c->ext.has_crypto)
		ret = cow_checker_mark(c, c->ext.crypto_off, c->ext.crypto_bytes, COW_KIND_CRYPTO,
				       1, NULL);
	if (!ret)
		ret = mark_snapshot_table(c);
	return ret;
}

/* ---- L1 tables ---- */

static int mark_l1_entry(struct cow_checker *c, uint64_t entry, uint64_t l1_off, uint64_t idx)
{
	uint64_t off = entry & QCOW2_OFFSET_MASK;
	bool usable = true;
	if (!entry)
		return 0;
	if (entry & QCOW2_L1_RESERVED)
		cow_checker_corrupt(c,
				    "ERROR L1 table at 0x%" PRIx64 " entry %" PRIu64
				    ": reserved bits set: 0x%" PRIx64,
				    l1_off, idx, entry);
	if (!off || off & (cow_cluster_bytes(&c->header) - 1)) {
		cow_checker_corrupt(c,
				    "ERROR L1 table at 0x%" PRIx64 " entry %" PRIu64
				    ": L2 table at 0x%" PRIx64 " is %s",
				    l1_off, idx, off, off ? "not cluster-aligned" : "the header");
		c->incomplete = true;
		return 0;
	}
	int ret = cow_checker_mark(c, off, cow_cluster_bytes(&c->header), COW_KIND_L2, 1, &usable);
	if (!usable)
		c->incomplete = true;
	return ret;
}

static int mark_l1_entries(struct cow_checker *c, uint64_t l1_off, uint32_t entries, uint8_t *chunk)
{
	uint64_t bytes = (uint64_t)entries * 8;
	for (uint64_t done = 0; done < bytes; done += L1_CHUNK_BYTES) {
		uint64_t n = bytes - done < L1_CHUNK_BYTES ? bytes - done : L1_CHUNK_BYTES;
		int ret = cow_checker_read(c, l1_off + done, chunk, n);
		for (uint64_t i = 0; i < n && !ret; i += 8)
			ret = mark_l1_entry(c, cow_load64_be(chunk + i), l1_off, (done + i) / 8);
		if (ret)
			return ret;
	}
	return 0;
}

/* The table's own clusters; *usable false: it is not to be walked. */
static int mark_l1_table(struct cow_checker *c, uint64_t l1_off, uint32_t entries, bool *usable)
{
	int ret = cow_checker_mark(c, l1_off, (uint64_t)entries * 8, COW_KIND_L1, 1, usable);
	if (!*usable)
		c->incomplete = true;
	return ret;
}

static int mark_snapshot_l1(struct cow_checker *c, const struct cow_snapshot *s, bool *usable)
{
	struct cow_error err = { 0 };
	*usable = false;
	if (cow_snapshot_verify_l1(s, &c->header, c->file->size_bytes, &err)) {
		cow_checker_corrupt(c, "ERROR %s", err.text);
		c->incomplete = true;
		return 0;
	}
	return mark_l1_table(c, s->l1_off, s->l1_entries, usable);
}

static int mark_active_l1(struct cow_checker *c, bool *usable)
{
	struct cow_error err = { 0 };
	*usable = false;
	if (cow_header_verify_l1_inside(&c->header, c->file->size_bytes, &err)) {
		cow_checker_corrupt(c, "ERROR %s", err.text);
		c->incomplete = true;
		return 0;
	}
	return mark_l1_table(c, c->header.l1_off, c->header.l1_entries, usable);
}

/*
 * First all tables' own clusters, so that what overlaps an L1 table is known before any is walked.
 */
static int mark_tables(struct cow_checker *c, bool *usable)
{
	int ret = mark_active_l1(c, &usable[0]);
	for (uint32_t i = 0; i < c->nr_snapshots && !ret; i++)
		ret = mark_snapshot_l1(c, &c->snapshots[i], &usable[i + 1]);
	return ret;
}

static int walk_tables(struct cow_checker *c, const bool *usable, uint8_t *chunk)
{
	int ret = usable[0] ? mark_l1_entries(c, c->header.l1_off, c->header.l1_entries, chunk) : 0;
	for (uint32_t i = 0; i < c->nr_snapshots && !ret; i++)
		if (usable[i + 1])
			ret = mark_l1_entries(c, c->snapshots[i].l1_off, c->snapshots[i].l1_entries,
					      chunk);
	return ret;
}

int cow_check_mark_l1_tables(struct cow_checker *c)
{
	uint8_t *chunk = cow_buf_alloc(L1_CHUNK_BYTES);
	bool *usable = calloc(c->nr_snapshots + 1, sizeof(*usable));
	int ret = chunk && usable ? 0 : -ENOMEM;
	if (!ret)
		ret = mark_tables(c, usable);
	if (!ret)
		ret = cow_check_mark_bitmaps(c);
	if (!ret)
		ret = walk_tables(c, usable, chunk);
	free(usable);
	free(chunk);
	return ret;
}
