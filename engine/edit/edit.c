/* SPDX-License-Identifier: MIT */
/* See edit.h. In this order: opening; tables; the switch. */
#include "engine/edit/edit.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/log.h"
#include "engine/check/repair_dirty.h"
#include "engine/edit/edit_fault.h"
#include "engine/core/load.h"
#include "engine/core/switch.h"
#include "engine/edit/edit_refcount.h"
#include "engine/loop/blocking.h"

/*
 * Autoclear features that an edit keeps true: it moves tables and changes no guest data (apply has
 * its own rule).
 */
static uint64_t kept_autoclear(const struct cow_edit *e)
{
	bool data_file = e->header.incompatible & QCOW2_INCOMPAT_DATA_FILE;
	return QCOW2_AUTOCLEAR_BITMAPS | (data_file ? QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0);
}

/* ---- opening ---- */

static int load_header(struct cow_edit *e)
{
	uint8_t *cluster;
	int ret = cow_load_header(e->loop, e->file, &e->header, &cluster, e->err);
	if (ret)
		return ret;
	memcpy(e->sector, cluster, sizeof(e->sector));
	ret = cow_extensions_decode(cluster, &e->header, &e->ext, e->err);
	free(cluster);
	return ret;
}

static int repair_dirty(struct cow_edit *e)
{
	if (!(e->header.incompatible & QCOW2_INCOMPAT_DIRTY))
		return 0;
	int ret = cow_repair_dirty(e->loop, e->file, e->file->path, e->err);
	if (!ret)
		ret = load_header(e);
	if (!ret)
		ret = cow_repair_dirty_verify(&e->header, e->err);
	return ret;
}

static int refuse(struct cow_edit *e)
{
	if (e->header.incompatible & QCOW2_INCOMPAT_CORRUPT)
		return cow_error_set(
			e->err, -EROFS,
			"the image is marked corrupt: repair it with cowblk check --repair all");
	if ((e->header.incompatible & QCOW2_INCOMPAT_DATA_FILE) && !e->any)
		return cow_error_set(
			e->err, -ENOTSUP,
			"images with an external data file cannot have internal snapshots");
	return 0;
}

/* What is written next goes to clusters that count 0: nothing fixed may lie in one. */
static int verify_fixed(struct cow_edit *e)
{
	const struct cow_header *h = &e->header;
	int ret = cow_edit_count(e, 0, e->g.cluster_bytes, 0);
	if (!ret)
		ret = cow_edit_count(e, h->l1_off, (uint64_t)h->l1_entries * 8, 0);
	if (!ret)
		ret = cow_edit_count(e, h->reftable_off,
				     (uint64_t)h->reftable_clusters << e->g.cluster_bits, 0);
	for (uint64_t i = 0; i < e->nr_blocks && !ret; i++)
		if (e->blocks[i].old_off)
			ret = cow_edit_count(e, e->blocks[i].old_off, e->g.cluster_bytes, 0);
	if (!ret)
		ret = cow_edit_count(e, h->snapshots_off, e->snapshots_bytes, 0);
	for (uint32_t i = 0; i < h->nr_snapshots && !ret; i++) {
		ret = cow_snapshot_verify_l1(&e->snapshots[i], h, e->file->size_bytes, e->err);
		if (!ret)
			ret = cow_edit_count(e, e->snapshots[i].l1_off,
					     (uint64_t)e->snapshots[i].l1_entries * 8, 0);
	}
	if (!ret && e->ext.has_bitmaps)
		ret = cow_edit_count(e, e->ext.bitmap_directory_off, e->ext.bitmap_directory_bytes,
				     0);
	if (!ret && e->ext.has_crypto)
		ret = cow_edit_count(e, e->ext.crypto_off, e->ext.crypto_bytes, 0);
	return ret;
}

static int load_tables(struct cow_edit *e)
{
	int ret = cow_load_snapshots(e->loop, e->file, &e->header, &e->snapshots,
				     &e->snapshots_bytes, e->err);
	if (!ret)
		ret = cow_edit_read_l1(e, e->header.l1_off, e->header.l1_entries, &e->l1);
	if (!ret)
		ret = cow_edit_load_refcounts(e);
	if (!ret)
		ret = verify_fixed(e);
	return ret;
}

/* Unknown autoclear features go before anything else is written, and for good. */
static int clear_autoclear(struct cow_edit *e)
{
	if (!(e->header.autoclear & ~kept_autoclear(e)))
		return 0;
	e->header.autoclear &= kept_autoclear(e);
	cow_header_encode(&e->header, e->sector, sizeof(e->sector));
	int ret = cow_loop_write(e->loop, e->file, 0, e->sector, sizeof(e->sector));
	if (!ret)
		ret = cow_loop_sync(e->loop, e->file);
	return cow_edit_cannot_write(e, ret);
}

static int open_edit(struct cow_edit *e)
{
	/*
	 * What a killed process left in the host's cache may call clusters free that are not so on
	 * disk.
	 */
	int ret = cow_edit_cannot_write(e, cow_loop_sync(e->loop, e->file));
	if (!ret)
		ret = load_header(e);
	if (!ret)
		ret = refuse(e);
	if (!ret)
		ret = repair_dirty(e);
	if (ret)
		return ret;
	cow_geometry_init(&e->g, &e->header);
	e->opened_bytes = e->file->size_bytes;
	e->max_clusters = e->file->block_device ? e->opened_bytes >> e->g.cluster_bits : UINT64_MAX;
	e->scan = 1;
	e->table = cow_buf_alloc(e->g.cluster_bytes);
	if (!e->table)
		return cow_error_no_memory(e->err);
	ret = load_tables(e);
	return ret ? ret : clear_autoclear(e);
}

static int open_or_close(struct cow_edit *e)
{
	int ret = open_edit(e);
	if (ret)
		cow_edit_close(e);
	return ret;
}

int cow_edit_open(struct cow_edit *e, struct cow_loop *loop, struct cow_file *file,
		  struct cow_error *err)
{
	*e = (struct cow_edit){ .loop = loop, .file = file, .err = err };
	return open_or_close(e);
}

int cow_edit_open_any(struct cow_edit *e, struct cow_loop *loop, struct cow_file *file,
		      struct cow_error *err)
{
	*e = (struct cow_edit){ .loop = loop, .file = file, .err = err, .any = true };
	return open_or_close(e);
}

/*
 * What was written in vain takes no room: below the file's old end it becomes holes, behind it is cut
 * off, as far as the host lets us.
 */
static void take_back(struct cow_edit *e)
{
	if (e->committed || !e->opened_bytes || !e->scan)
		return;
	if (e->file->can_punch)
		COW_IGNORE(cow_edit_punch_taken(e));
	if (!e->file->block_device)
		COW_IGNORE(cow_loop_resize(e->loop, e->file, e->opened_bytes));
}

void cow_edit_close(struct cow_edit *e)
{
	take_back(e);
	cow_edit_free_refcounts(e);
	cow_snapshots_free(e->snapshots, e->header.nr_snapshots);
	free(e->l1);
	free(e->table);
	memset(e, 0, sizeof(*e));
}

/* ---- tables ---- */

int cow_edit_read_l1(struct cow_edit *e, uint64_t off, uint64_t nr, uint64_t **l1)
{
	uint8_t *raw = cow_buf_alloc(nr * 8 + 8);
	*l1 = calloc(nr + 1, 8);
	int ret = raw && *l1 ? 0 : -ENOMEM;
	if (!ret && nr)
		ret = cow_loop_read(e->loop, e->file, off, raw, nr * 8);
	if (ret) {
		free(raw);
		free(*l1);
		*l1 = NULL;
		return cow_error_set(e->err, ret, "L1 table at offset %" PRIu64 ": %s", off,
				     strerror(-ret));
	}
	for (uint64_t i = 0; i < nr; i++)
		(*l1)[i] = cow_load64_be(raw + i * 8);
	free(raw);
	return 0;
}

/* Whole clusters: raw is zero-padded to them. */
static int write_clusters(struct cow_edit *e, const uint8_t *raw, uint64_t clusters, uint64_t *off)
{
	cow_assert(clusters && !e->committed);
	int ret = cow_edit_alloc(e, clusters, off);
	if (ret)
		return ret;
	return cow_edit_cannot_write(
		e, cow_loop_write(e->loop, e->file, *off, raw, clusters << e->g.cluster_bits));
}

static uint64_t clusters_for(const struct cow_edit *e, uint64_t bytes)
{
	return (bytes + e->g.cluster_bytes - 1) >> e->g.cluster_bits;
}

int cow_edit_write_l1(struct cow_edit *e, const uint64_t *l1, uint64_t nr, uint64_t *off)
{
	uint64_t clusters = clusters_for(e, nr * 8);
	*off = 0;
	if (!nr)
		return 0;
	uint8_t *raw = cow_buf_alloc(clusters << e->g.cluster_bits);
	if (!raw)
		return cow_error_no_memory(e->err);
	for (uint64_t i = 0; i < nr; i++)
		cow_store64_be(raw + i * 8, l1[i]);
	int ret = write_clusters(e, raw, clusters, off);
	free(raw);
	return ret;
}

int cow_edit_move_l1(struct cow_edit *e, uint32_t old_entries)
{
	uint64_t off;
	cow_assert(!e->committed);
	if (!e->l1_changed)
		return 0;
	int ret = cow_edit_count(e, e->header.l1_off, (uint64_t)old_entries * 8, -1);
	if (!ret)
		ret = cow_edit_write_l1(e, e->l1, e->header.l1_entries, &off);
	if (!ret)
		e->header.l1_off = off;
	return ret;
}

static uint64_t snapshots_bytes(const struct cow_edit *e)
{
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < e->header.nr_snapshots; i++)
		bytes += cow_snapshot_bytes(&e->snapshots[i]);
	return bytes;
}

static void encode_snapshots(struct cow_edit *e, uint8_t *raw)
{
	for (uint32_t i = 0; i < e->header.nr_snapshots; i++) {
		cow_snapshot_encode(&e->snapshots[i], raw);
		raw += cow_snapshot_bytes(&e->snapshots[i]);
	}
}

bool cow_edit_complete_snapshots(struct cow_edit *e)
{
	bool lacking = false;
	for (uint32_t i = 0; i < e->header.nr_snapshots; i++) {
		if (e->snapshots[i].extra_bytes >= COW_SNAPSHOT_SIZES_BYTES)
			continue;
		e->snapshots[i].extra_bytes = COW_SNAPSHOT_SIZES_BYTES;
		lacking = true;
	}
	return lacking;
}

int cow_edit_write_snapshots(struct cow_edit *e)
{
	uint64_t bytes = snapshots_bytes(e), clusters = clusters_for(e, bytes), off = 0;
	cow_assert(!e->committed);
	if (bytes > QCOW2_MAX_SNAPSHOT_TABLE_BYTES)
		return cow_error_set(
			e->err, -EFBIG,
			"the snapshot table would be larger than 64 MiB: delete snapshots first");
	int ret = cow_edit_count(e, e->header.snapshots_off, e->snapshots_bytes, -1);
	if (!ret && clusters) {
		uint8_t *raw = cow_buf_alloc(clusters << e->g.cluster_bits);
		if (!raw)
			return cow_error_no_memory(e->err);
		encode_snapshots(e, raw);
		ret = write_clusters(e, raw, clusters, &off);
		free(raw);
	}
	e->header.snapshots_off = off;
	return ret;
}

/* ---- the switch ---- */

/*
 * From here on the error is that nobody knows which of the two images is on disk; both are sound.
 */
static int switch_header(struct cow_edit *e)
{
	if (e->places.changed)
		memcpy(e->sector, e->places.sector, sizeof(e->sector));
	cow_header_encode(&e->header, e->sector, sizeof(e->sector));
	int ret = cow_switch_header(e->loop, e->file, e->sector, &e->committed);
	if (ret)
		COW_IGNORE(cow_edit_cannot_write(e, ret == -ENOTRECOVERABLE ? -EIO : ret));
	return ret;
}

int cow_edit_commit(struct cow_edit *e)
{
	cow_assert(!e->committed);
	int ret = cow_edit_write_refcounts(e);
	if (ret)
		return ret;
	ret = switch_header(e);
	if (ret) {
		e->committed = e->committed && ret == -ENOTRECOVERABLE;
		return ret;
	}
	ret = e->file->can_punch ? cow_edit_punch_freed(e) : 0;
	if (ret && ret != -EOPNOTSUPP && ret != -ENOTSUP)
		cow_log(COW_LOG_WARNING, "%s: cannot give freed space back to the host: %s",
			e->file->path, strerror(-ret));
	return 0;
}
