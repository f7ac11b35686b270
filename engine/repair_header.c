/* SPDX-License-Identifier: MIT */
/*
 * Repairs that begin or end at the header: a snapshot table that cannot be decoded, and the dirty and corrupt bits.
 *
 * Snapshot table: whatever entries can be saved go into a new table at the end of the file. Until its refcounts are written by
 * the pass that follows, the corrupt bit keeps writers away: a crash in between leaves an image that asks for repair again.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/checker.h"

#define FIXED_BYTES sizeof(struct qcow2_snapshot_be)
#define AT(field) offsetof(struct qcow2_snapshot_be, field)
#define V3_EXTRA_BYTES 16u

static int update_header(struct cow_loop *loop, struct cow_file *file, void (*change)(uint8_t *, void *), void *ctx)
{
	uint8_t *sector = cow_buf_alloc(512);
	int ret = sector ? cow_loop_sync(loop, file) : -ENOMEM;
	if (!ret)
		ret = cow_loop_read(loop, file, 0, sector, 512);
	if (!ret) {
		change(sector, ctx);
		ret = cow_loop_write(loop, file, 0, sector, 512);
	}
	if (!ret)
		ret = cow_loop_sync(loop, file);
	free(sector);
	return ret;
}

static void clear_bits(uint8_t *sector, void *ctx)
{
	uint8_t *p = sector + offsetof(struct qcow2_header_be, incompatible_features);
	const uint64_t *bits = ctx;
	cow_store64_be(p, cow_load64_be(p) & ~*bits);
}

int cow_repair_clear_bits(struct cow_loop *loop, struct cow_file *file, uint64_t bits)
{
	return update_header(loop, file, clear_bits, &bits);
}

/* ---- snapshot table ---- */

/* A table being saved. */
struct salvage {
	const struct cow_header *h;
	const uint8_t *old;
	uint64_t old_bytes, off;
	uint8_t *table; /* new */
	uint64_t bytes, max_bytes;
	uint32_t nr;
	uint64_t table_off; /* where the new one goes */
};

static uint64_t align8(uint64_t n)
{
	return (n + 7) & ~7ull;
}

/* Bytes of extra data that the saved entry has. */
static uint32_t right_extra_bytes(const struct cow_header *h, uint32_t extra_bytes)
{
	if (h->version >= 3 && extra_bytes < V3_EXTRA_BYTES)
		return V3_EXTRA_BYTES;
	return extra_bytes < QCOW2_MAX_SNAPSHOT_EXTRA_BYTES ? extra_bytes : QCOW2_MAX_SNAPSHOT_EXTRA_BYTES;
}

static void save_extra(const struct salvage *s, const uint8_t *from, uint32_t old_extra, uint8_t *to,
		       uint32_t new_extra)
{
	memcpy(to, from + FIXED_BYTES, old_extra < new_extra ? old_extra : new_extra);
	if (old_extra >= new_extra)
		return;
	if (old_extra < 8)
		cow_store64_be(to, cow_load32_be(from + AT(vm_state_size)));
	if (old_extra < 16)
		cow_store64_be(to + 8, s->h->size_bytes);
}

/* False: the table ends here. */
static bool save_entry(struct salvage *s)
{
	const uint8_t *from = s->old + s->off;
	uint64_t left = s->old_bytes - s->off;
	if (left < FIXED_BYTES)
		return false;
	uint32_t old_extra = cow_load32_be(from + AT(extra_data_size));
	uint32_t new_extra = right_extra_bytes(s->h, old_extra);
	uint64_t strings = (uint64_t)cow_load16_be(from + AT(id_size)) + cow_load16_be(from + AT(name_size));
	uint64_t bytes = align8(FIXED_BYTES + new_extra + strings);
	if (old_extra > left || FIXED_BYTES + old_extra + strings > left || bytes > s->max_bytes - s->bytes)
		return false;
	uint8_t *to = s->table + s->bytes;
	memcpy(to, from, FIXED_BYTES);
	cow_store32_be(to + AT(extra_data_size), new_extra);
	save_extra(s, from, old_extra, to + FIXED_BYTES, new_extra);
	memcpy(to + FIXED_BYTES + new_extra, from + FIXED_BYTES + old_extra, strings);
	s->bytes += bytes;
	s->off += align8(FIXED_BYTES + old_extra + strings);
	s->nr++;
	return s->off <= s->old_bytes;
}

static void mark_corrupt(uint8_t *sector, void *ctx)
{
	const struct salvage *s = ctx;
	uint8_t *p = sector + offsetof(struct qcow2_header_be, incompatible_features);
	if (s->h->version >= 3)
		cow_store64_be(p, cow_load64_be(p) | QCOW2_INCOMPAT_CORRUPT);
}

static void switch_table(uint8_t *sector, void *ctx)
{
	const struct salvage *s = ctx;
	cow_store32_be(sector + offsetof(struct qcow2_header_be, nb_snapshots), s->nr);
	cow_store64_be(sector + offsetof(struct qcow2_header_be, snapshots_offset), s->nr ? s->table_off : 0);
}

static int write_table(struct cow_loop *loop, struct cow_file *file, struct salvage *s, struct cow_error *err)
{
	uint32_t cluster_bytes = cow_cluster_bytes(s->h);
	s->table_off = (file->size_bytes + cluster_bytes - 1) & ~(uint64_t)(cluster_bytes - 1);
	if (s->nr && file->block_device)
		return cow_error_set(err, -ENOTSUP, "repair: a snapshot table cannot be moved on a block device");
	int ret = update_header(loop, file, mark_corrupt, s);
	if (!ret && s->nr)
		ret = cow_loop_write(loop, file, s->table_off, s->table, (s->bytes + 511) & ~511ull);
	if (!ret)
		ret = update_header(loop, file, switch_table, s);
	return ret ? cow_error_set(err, ret, "repair: cannot write: %s", strerror(-ret)) : 0;
}

static int salvage_table(struct cow_loop *loop, struct cow_file *file, const struct cow_header *h,
			 struct cow_error *err)
{
	struct salvage s = {.h = h};
	if (!(h->snapshots_off & (cow_cluster_bytes(h) - 1)) && h->snapshots_off &&
	    h->snapshots_off < file->size_bytes)
		s.old_bytes = file->size_bytes - h->snapshots_off;
	if (s.old_bytes > QCOW2_MAX_SNAPSHOT_TABLE_BYTES)
		s.old_bytes = QCOW2_MAX_SNAPSHOT_TABLE_BYTES;
	/* An entry grows by the extra data that it lacks, and padding. */
	s.max_bytes = s.old_bytes + (s.old_bytes / FIXED_BYTES + 1) * (V3_EXTRA_BYTES + 8);
	if (s.max_bytes > QCOW2_MAX_SNAPSHOT_TABLE_BYTES)
		s.max_bytes = QCOW2_MAX_SNAPSHOT_TABLE_BYTES;
	uint8_t *old = cow_buf_alloc(s.old_bytes);
	s.table = cow_buf_alloc(s.max_bytes);
	s.old = old;
	int ret = old && s.table ? cow_loop_read(loop, file, h->snapshots_off, old, s.old_bytes) : -ENOMEM;
	if (ret)
		cow_error_set(err, ret, "repair: snapshot table: %s", strerror(-ret));
	while (!ret && s.nr < h->nr_snapshots && s.nr < QCOW2_MAX_SNAPSHOTS && save_entry(&s))
		;
	if (!ret)
		ret = write_table(loop, file, &s, err);
	free(old);
	free(s.table);
	return ret;
}

int cow_repair_snapshots(struct cow_loop *loop, struct cow_file *file, struct cow_error *err)
{
	struct cow_header h;
	struct cow_snapshot *list = NULL;
	uint8_t *cluster;
	uint64_t used_bytes;
	int ret = cow_load_header(loop, file, true, &h, &cluster, err);
	if (ret)
		return ret;
	free(cluster);
	if (cow_header_snapshots_ok(&h, file->size_bytes, NULL)) {
		ret = cow_load_snapshots(loop, file, &h, &list, &used_bytes, NULL);
		cow_snapshots_free(list, ret ? 0 : h.nr_snapshots);
		if (!ret)
			return 0;
		if (ret != -EINVAL)
			return cow_error_set(err, ret, "repair: snapshot table: %s", strerror(-ret));
	}
	return salvage_table(loop, file, &h, err);
}
