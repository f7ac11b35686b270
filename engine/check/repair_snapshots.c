/* SPDX-License-Identifier: MIT */
/*
 * A snapshot table that cannot be decoded, or with entries whose L1 table cannot be read. Whatever
 * entries can be saved go into a new table at the end of the file; what cannot is dropped, and said
 * so, with its name and id as far as they are known. Its clusters are leaks then, for the round that
 * follows.
 *
 * Until the refcounts of the new table are written by that round, the corrupt bit keeps writers
 * away: a crash in between leaves an image that asks for repair again. Version 2 has no such bit:
 * there the new table is counted before the header names it, as far as there are refcount blocks to
 * count it in.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/log.h"
#include "engine/check/checker.h"
#include "engine/check/repair_header.h"
#include "engine/check/repair_snapshots.h"
#include "engine/loop/blocking.h"

#define FIXED_BYTES sizeof(struct qcow2_snapshot_be)
#define AT(field) offsetof(struct qcow2_snapshot_be, field)

/* A table being saved. */
struct salvage {
	const struct cow_check_options *options;
	const struct cow_header *h;
	uint64_t file_bytes;
	uint64_t old_off; /* where the old one is, or is looked for */
	const uint8_t *old;
	uint64_t old_bytes, off;
	uint8_t *table; /* new */
	uint64_t bytes, max_bytes;
	uint32_t nr, nr_told; /* saved; dropped with a word of their own */
	uint64_t table_off;   /* where the new one goes */
};

/* An entry as it stands; its parts lie in s->old. */
struct entry {
	const uint8_t *fixed, *extra, *id, *name;
	uint32_t extra_bytes;
	uint16_t id_bytes, name_bytes;
	uint64_t bytes; /* padded */
};

static uint64_t align8(uint64_t n)
{
	return (n + 7) & ~7ull;
}

/* ---- what is dropped ---- */

static void say(const struct salvage *s, const char *text)
{
	if (s->options->finding)
		s->options->finding(s->options->ctx, text);
	else
		cow_log(COW_LOG_WARNING, "%s", text);
}

static void say_dropped(const struct salvage *s, const struct entry *e, const char *why)
{
	char text[512];
	snprintf(text, sizeof(text), "Repair: snapshot '%.*s' (id %.*s) is dropped: %s",
		 e->name_bytes < 128 ? e->name_bytes : 128, (const char *)e->name,
		 e->id_bytes < 32 ? e->id_bytes : 32, (const char *)e->id, why);
	say(s, text);
}

static void say_lost(const struct salvage *s)
{
	char text[256];
	uint32_t nr = s->h->nr_snapshots;
	if (s->nr + s->nr_told == nr)
		return;
	snprintf(text, sizeof(text),
		 "Repair: %" PRIu32 " of %" PRIu32
		 " snapshots are dropped: the table at offset %" PRIu64 " has no more",
		 nr - s->nr - s->nr_told, nr, s->h->snapshots_off);
	say(s, text);
}

/* ---- reading ---- */

/* The entry at s->off, if it has so much extra data. False: it does not fit. */
static bool lay_out(const struct salvage *s, uint32_t extra_bytes, struct entry *e)
{
	const uint8_t *p = s->old + s->off;
	*e = (struct entry){
		.fixed = p,
		.extra = p + FIXED_BYTES,
		.extra_bytes = extra_bytes,
		.id_bytes = cow_load16_be(p + AT(id_size)),
		.name_bytes = cow_load16_be(p + AT(name_size)),
	};
	uint64_t bytes = (uint64_t)FIXED_BYTES + e->extra_bytes + e->id_bytes + e->name_bytes;
	if (bytes > s->old_bytes - s->off)
		return false;
	e->id = e->extra + e->extra_bytes;
	e->name = e->id + e->id_bytes;
	e->bytes = align8(bytes);
	return true;
}

static bool has_id(const struct entry *e)
{
	for (unsigned i = 0; i < e->id_bytes; i++)
		if (e->id[i] <= ' ' || e->id[i] > '~')
			return false;
	return e->id_bytes;
}

/* Where the size of the extra data cannot be right, one that is usual and has an id behind it. */
static bool find_id(const struct salvage *s, struct entry *e)
{
	static const uint32_t usual[] = { 24, 16 };
	uint32_t said = cow_load32_be(s->old + s->off + AT(extra_data_size));
	bool right = said <= QCOW2_MAX_SNAPSHOT_EXTRA_BYTES &&
		     (s->h->version < 3 || said >= COW_SNAPSHOT_SIZES_BYTES);
	bool fits = lay_out(s, said, e);
	for (unsigned i = 0; i < 2 && !right && !(fits && has_id(e)); i++) {
		struct entry other;
		if (lay_out(s, usual[i], &other) && has_id(&other)) {
			*e = other;
			return true;
		}
	}
	return fits;
}

/* False: the table ends here. */
static bool read_entry(const struct salvage *s, struct entry *e)
{
	const uint8_t *p = s->old + s->off;
	if (s->old_bytes - s->off < FIXED_BYTES || !find_id(s, e))
		return false;
	/* The zeros behind the last entry are none. */
	return cow_load64_be(p + AT(l1_table_offset)) || cow_load32_be(p + AT(l1_size)) ||
	       e->id_bytes || e->name_bytes;
}

static bool overlaps(const struct cow_snapshot *s, uint64_t off, uint64_t bytes)
{
	return s->l1_entries && s->l1_off < off + bytes &&
	       off < s->l1_off + (uint64_t)s->l1_entries * 8;
}

/* What an L1 table is not, wherever an entry says that it lies. NULL: nothing known against it. */
static const char *why_not(const struct salvage *s, const struct cow_snapshot *snapshot,
			   struct cow_error *err)
{
	const struct cow_header *h = s->h;
	if (cow_snapshot_verify_l1(snapshot, h, s->file_bytes, err))
		return strstr(err->text, "its L1") ? strstr(err->text, "its L1") : err->text;
	if (overlaps(snapshot, h->l1_off, (uint64_t)h->l1_entries * 8))
		return "its L1 table lies over the active one";
	if (overlaps(snapshot, h->reftable_off, (uint64_t)h->reftable_clusters << h->cluster_bits))
		return "its L1 table lies over the refcount table";
	if (overlaps(snapshot, s->old_off, 1))
		return "its L1 table lies over the snapshot table";
	return NULL;
}

static const char *fault_of(const struct salvage *s, const struct entry *e, struct cow_error *err)
{
	struct cow_snapshot snapshot = {
		.l1_off = cow_load64_be(e->fixed + AT(l1_table_offset)),
		.l1_entries = cow_load32_be(e->fixed + AT(l1_size)),
		.name = (char *)(uintptr_t) "",
	};
	return why_not(s, &snapshot, err);
}

/* ---- the new table ---- */

/* Bytes of extra data that the saved entry has. */
static uint32_t right_extra_bytes(const struct cow_header *h, uint32_t extra_bytes)
{
	if (h->version >= 3 && extra_bytes < COW_SNAPSHOT_SIZES_BYTES)
		return COW_SNAPSHOT_SIZES_BYTES;
	return extra_bytes < QCOW2_MAX_SNAPSHOT_EXTRA_BYTES ? extra_bytes
							    : QCOW2_MAX_SNAPSHOT_EXTRA_BYTES;
}

static void save_extra(const struct salvage *s, const struct entry *e, uint8_t *to, uint32_t bytes)
{
	memcpy(to, e->extra, e->extra_bytes < bytes ? e->extra_bytes : bytes);
	if (e->extra_bytes >= bytes)
		return;
	if (e->extra_bytes < 8)
		cow_store64_be(to, cow_load32_be(e->fixed + AT(vm_state_size)));
	if (e->extra_bytes < COW_SNAPSHOT_SIZES_BYTES)
		cow_store64_be(to + 8, s->h->size_bytes);
}

/* False: no room. */
static bool save_entry(struct salvage *s, const struct entry *e)
{
	uint32_t extra = right_extra_bytes(s->h, e->extra_bytes);
	uint32_t strings = (uint32_t)e->id_bytes + e->name_bytes;
	uint64_t bytes = align8(FIXED_BYTES + extra + strings);
	if (bytes > s->max_bytes - s->bytes)
		return false;
	uint8_t *to = s->table + s->bytes;
	memcpy(to, e->fixed, FIXED_BYTES);
	cow_store32_be(to + AT(extra_data_size), extra);
	save_extra(s, e, to + FIXED_BYTES, extra);
	memcpy(to + FIXED_BYTES + extra, e->id, strings);
	s->bytes += bytes;
	s->nr++;
	return true;
}

static void save_entries(struct salvage *s, bool tell)
{
	uint32_t nr =
		s->h->nr_snapshots < QCOW2_MAX_SNAPSHOTS ? s->h->nr_snapshots : QCOW2_MAX_SNAPSHOTS;
	struct entry e;
	for (uint32_t i = 0; i < nr && s->off <= s->old_bytes && read_entry(s, &e); i++) {
		struct cow_error err = { 0 };
		s->off += e.bytes;
		if (!has_id(&e)) /* no snapshot */
			continue;
		const char *fault = fault_of(s, &e, &err);
		if (!fault && !save_entry(s, &e))
			break;
		if (fault && tell)
			say_dropped(s, &e, fault);
		s->nr_told += fault != NULL;
	}
	if (tell)
		say_lost(s);
}

/* ---- writing ---- */

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
	cow_store64_be(sector + offsetof(struct qcow2_header_be, snapshots_offset),
		       s->nr ? s->table_off : 0);
}

/* The refcount block of a cluster, 0 if there is none that can be used. */
static int find_refblock(struct cow_loop *loop, struct cow_file *file, const struct cow_header *h,
			 uint64_t cluster, uint64_t *off)
{
	uint64_t idx = cluster / ((uint64_t)cow_cluster_bytes(h) * 8 >> h->refcount_order);
	uint8_t entry[8] = { 0 };
	int ret = 0;
	if (cow_header_reftable_ok(h, file->size_bytes, NULL) &&
	    idx < (uint64_t)h->reftable_clusters << h->cluster_bits >> 3)
		ret = cow_loop_read(loop, file, h->reftable_off + idx * 8, entry, 8);
	*off = cow_load64_be(entry);
	if (*off & (cow_cluster_bytes(h) - 1) || *off >= file->size_bytes)
		*off = 0;
	return ret;
}

/* Leaks, if it ends here. The clusters lie behind all others: nobody else has them. */
static int count_table(struct cow_loop *loop, struct cow_file *file, const struct salvage *s)
{
	const struct cow_header *h = s->h;
	uint64_t cluster = s->table_off >> h->cluster_bits,
		 end = (s->table_off + s->bytes - 1) >> h->cluster_bits, off;
	uint64_t per_block = (uint64_t)cow_cluster_bytes(h) * 8 >> h->refcount_order;
	uint8_t *block = cow_buf_alloc(cow_cluster_bytes(h));
	int ret = block ? 0 : -ENOMEM;
	while (!ret && cluster <= end) {
		uint64_t first = cluster;
		ret = find_refblock(loop, file, h, cluster, &off);
		if (!ret && off)
			ret = cow_loop_read(loop, file, off, block, cow_cluster_bytes(h));
		do
			cow_refcount_set(block, h->refcount_order, cluster % per_block, 1);
		while (++cluster <= end && cluster / per_block == first / per_block);
		if (!ret && off)
			ret = cow_loop_write(loop, file, off, block, cow_cluster_bytes(h));
	}
	free(block);
	return ret;
}

static int write_table(struct cow_loop *loop, struct cow_file *file, struct salvage *s,
		       struct cow_error *err)
{
	uint32_t cluster_bytes = cow_cluster_bytes(s->h);
	s->table_off = (file->size_bytes + cluster_bytes - 1) & ~(uint64_t)(cluster_bytes - 1);
	if (s->nr && file->block_device)
		return cow_error_set(err, -ENOTSUP,
				     "repair: a snapshot table cannot be moved on a block device");
	int ret = cow_repair_update_header(loop, file, mark_corrupt, s);
	if (!ret && s->nr)
		ret = cow_loop_write(loop, file, s->table_off, s->table,
				     (s->bytes + 511) & ~511ull);
	if (!ret && s->nr && s->h->version < 3)
		ret = count_table(loop, file, s);
	if (!ret)
		ret = cow_repair_update_header(loop, file, switch_table, s);
	return ret ? cow_error_set(err, ret, "repair: cannot write: %s", strerror(-ret)) : 0;
}

/* ---- all of it ---- */

/*
 * The table lies on a cluster's boundary, where an offset that does not is looked at, and over no
 * other table.
 */
static void find_table(struct salvage *s)
{
	const struct cow_header *h = s->h;
	uint64_t l1_end = h->l1_off + (uint64_t)h->l1_entries * 8;
	uint64_t reftable_end =
		h->reftable_off + ((uint64_t)h->reftable_clusters << h->cluster_bits);
	s->old_off = h->snapshots_off & ~(uint64_t)(cow_cluster_bytes(h) - 1);
	bool other = (s->old_off >= h->l1_off && s->old_off < l1_end) ||
		     (s->old_off >= h->reftable_off && s->old_off < reftable_end);
	if (s->old_off && s->old_off < s->file_bytes && !other)
		s->old_bytes = s->file_bytes - s->old_off;
	if (s->old_bytes > QCOW2_MAX_SNAPSHOT_TABLE_BYTES)
		s->old_bytes = QCOW2_MAX_SNAPSHOT_TABLE_BYTES;
	/* An entry grows by the extra data that it lacks, and padding. */
	s->max_bytes =
		s->old_bytes + (s->old_bytes / FIXED_BYTES + 1) * (COW_SNAPSHOT_SIZES_BYTES + 8);
	if (s->max_bytes > QCOW2_MAX_SNAPSHOT_TABLE_BYTES)
		s->max_bytes = QCOW2_MAX_SNAPSHOT_TABLE_BYTES;
}

/* Nobody who only opens the image has asked for snapshots to be dropped. */
static bool may_save(struct salvage *s)
{
	return !s->options->keep_snapshots || s->nr == s->h->nr_snapshots;
}

static int salvage_table(struct cow_loop *loop, struct cow_file *file, const struct cow_header *h,
			 const struct cow_check_options *options, struct cow_error *err)
{
	struct salvage s = { .h = h, .options = options, .file_bytes = file->size_bytes };
	find_table(&s);
	uint8_t *old = cow_buf_alloc(s.old_bytes);
	s.table = cow_buf_alloc(s.max_bytes);
	s.old = old;
	int ret = old && s.table ? cow_loop_read(loop, file, s.old_off, old, s.old_bytes) : -ENOMEM;
	if (ret)
		cow_error_set(err, ret, "repair: snapshot table: %s", strerror(-ret));
	else
		save_entries(&s, !options->keep_snapshots);
	if (!ret && may_save(&s))
		ret = write_table(loop, file, &s, err);
	free(old);
	free(s.table);
	return ret;
}

static bool all_good(const struct cow_header *h, const struct cow_snapshot *list,
		     uint64_t file_bytes)
{
	const struct salvage s = { .h = h, .file_bytes = file_bytes, .old_off = h->snapshots_off };
	struct cow_error err = { 0 };
	for (uint32_t i = 0; i < h->nr_snapshots; i++)
		if (why_not(&s, &list[i], &err))
			return false;
	return true;
}

int cow_repair_snapshots(struct cow_loop *loop, struct cow_file *file,
			 const struct cow_check_options *options, struct cow_error *err)
{
	struct cow_header h;
	struct cow_snapshot *list = NULL;
	uint8_t *cluster;
	uint64_t used_bytes;
	int ret = cow_load_header_lenient(loop, file, &h, &cluster, err);
	if (ret)
		return ret;
	free(cluster);
	if (cow_header_snapshots_ok(&h, file->size_bytes, NULL)) {
		ret = cow_load_snapshots(loop, file, &h, &list, &used_bytes, NULL);
		bool good = !ret && all_good(&h, list, file->size_bytes);
		cow_snapshots_free(list, ret ? 0 : h.nr_snapshots);
		if (good)
			return 0;
		if (ret && ret != -EINVAL)
			return cow_error_set(err, ret, "repair: snapshot table: %s",
					     strerror(-ret));
	}
	return salvage_table(loop, file, &h, options, err);
}
