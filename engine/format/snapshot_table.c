/* SPDX-License-Identifier: MIT */
/*
 * The snapshot table: entries of a fixed part (40 bytes), extra data, id and name, each padded to
 * 8.
 *
 * The table's length is not stored anywhere; it follows from the entries. A caller reads what the
 * file has, at most QCOW2_MAX_SNAPSHOT_TABLE_BYTES, and decodes.
 */
#include "engine/format/snapshot_table.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"

#define FIXED_BYTES sizeof(struct qcow2_snapshot_be)
#define AT(field) offsetof(struct qcow2_snapshot_be, field)
#define EXTRA_VM_STATE 0
#define EXTRA_DISK_SIZE 8
#define EXTRA_ICOUNT 16

/* A table being read. */
struct reader {
	const uint8_t *table;
	uint64_t len, off, table_off;
	struct cow_error *err;
};

static uint64_t align8(uint64_t n)
{
	return (n + 7) & ~7ull;
}

static int bad(const struct reader *r, uint32_t idx, uint64_t at, const char *why)
{
	return cow_error_set(r->err, -EINVAL,
			     "snapshot table entry %" PRIu32 " at offset %" PRIu64 ": %s", idx,
			     r->table_off + r->off + at, why);
}

static char *dup_string(const uint8_t *p, size_t bytes)
{
	char *s = malloc(bytes + 1);
	if (s) {
		memcpy(s, p, bytes);
		s[bytes] = '\0';
	}
	return s;
}

static void load_fixed(const uint8_t *p, struct cow_snapshot *s)
{
	s->l1_off = cow_load64_be(p + AT(l1_table_offset));
	s->l1_entries = cow_load32_be(p + AT(l1_size));
	s->date_sec = cow_load32_be(p + AT(date_sec));
	s->date_nsec = cow_load32_be(p + AT(date_nsec));
	s->vm_clock_nsec = cow_load64_be(p + AT(vm_clock_nsec));
	s->vm_state_bytes = cow_load32_be(p + AT(vm_state_size));
	s->extra_bytes = cow_load32_be(p + AT(extra_data_size));
}

static void load_extra(const uint8_t *p, const struct cow_header *h, struct cow_snapshot *s)
{
	memcpy(s->extra, p, s->extra_bytes);
	if (s->extra_bytes >= EXTRA_VM_STATE + 8)
		s->vm_state_bytes = cow_load64_be(p + EXTRA_VM_STATE);
	s->disk_bytes = s->extra_bytes >= EXTRA_DISK_SIZE + 8 ? cow_load64_be(p + EXTRA_DISK_SIZE)
							      : h->size_bytes;
	s->icount =
		s->extra_bytes >= EXTRA_ICOUNT + 8 ? cow_load64_be(p + EXTRA_ICOUNT) : UINT64_MAX;
}

static int load_entry(struct reader *r, uint32_t idx, const struct cow_header *h,
		      struct cow_snapshot *s)
{
	const uint8_t *p = r->table + r->off;
	uint64_t left = r->len - r->off;
	if (left < FIXED_BYTES)
		return bad(r, idx, 0, "runs past the end of the table or of the file");
	load_fixed(p, s);
	s->entry_off = r->off;
	if (s->extra_bytes > QCOW2_MAX_SNAPSHOT_EXTRA_BYTES)
		return bad(r, idx, AT(extra_data_size), "extra data is more than 1024 bytes");
	if (h->version >= 3 && s->extra_bytes < COW_SNAPSHOT_SIZES_BYTES)
		return bad(r, idx, AT(extra_data_size),
			   "extra data is less than the 16 bytes of version 3");
	uint64_t id_bytes = cow_load16_be(p + AT(id_size)),
		 name_bytes = cow_load16_be(p + AT(name_size));
	uint64_t bytes = FIXED_BYTES + s->extra_bytes + id_bytes + name_bytes;
	if (bytes > left)
		return bad(r, idx, 0, "runs past the end of the table or of the file");
	load_extra(p + FIXED_BYTES, h, s);
	const uint8_t *strings = p + FIXED_BYTES + s->extra_bytes;
	s->id = dup_string(strings, id_bytes);
	s->name = dup_string(strings + id_bytes, name_bytes);
	if (!s->id || !s->name)
		return cow_error_set(r->err, -ENOMEM, "snapshot table: out of memory");
	bytes = align8(bytes);
	r->off += bytes < left ? bytes : left;
	return 0;
}

int cow_snapshots_decode(const uint8_t *table, uint64_t len, uint64_t table_off,
			 const struct cow_header *h, struct cow_snapshot **out,
			 uint64_t *used_bytes, struct cow_error *err)
{
	uint32_t nr = h->nr_snapshots;
	struct reader r = { .table = table, .table_off = table_off, .err = err };
	r.len = len < QCOW2_MAX_SNAPSHOT_TABLE_BYTES ? len : QCOW2_MAX_SNAPSHOT_TABLE_BYTES;
	*out = NULL;
	*used_bytes = 0;
	if (nr > QCOW2_MAX_SNAPSHOTS || nr > r.len / FIXED_BYTES)
		return cow_error_set(err, -EINVAL,
				     "nb_snapshots at offset %zu: %" PRIu32
				     " snapshots do not fit into the "
				     "table",
				     offsetof(struct qcow2_header_be, nb_snapshots), nr);
	struct cow_snapshot *list = calloc(nr ? nr : 1, sizeof(*list));
	if (!list)
		return cow_error_set(err, -ENOMEM, "snapshot table: out of memory");
	for (uint32_t i = 0; i < nr; i++) {
		int ret = load_entry(&r, i, h, &list[i]);
		if (ret) {
			cow_snapshots_free(list, nr);
			return ret;
		}
	}
	*out = list;
	*used_bytes = r.off;
	return 0;
}

void cow_snapshots_free(struct cow_snapshot *snapshots, uint32_t nr)
{
	if (!snapshots)
		return;
	for (uint32_t i = 0; i < nr; i++) {
		free(snapshots[i].id);
		free(snapshots[i].name);
	}
	free(snapshots);
}

int cow_snapshot_verify_l1(const struct cow_snapshot *s, const struct cow_header *h,
			   uint64_t file_bytes, struct cow_error *err)
{
	const char *why = NULL;
	uint64_t bytes = (uint64_t)s->l1_entries * 8;
	if (bytes > QCOW2_MAX_L1_BYTES)
		why = "its L1 table is more than 32 MiB";
	else if (s->l1_off & (cow_cluster_bytes(h) - 1))
		why = "its L1 table is not cluster-aligned";
	else if (bytes && !s->l1_off)
		why = "its L1 table lies over the header";
	else if (bytes && (s->l1_off > file_bytes || bytes > file_bytes - s->l1_off))
		why = "its L1 table lies past the end of the file";
	if (!why)
		return 0;
	return cow_error_set(err, -EINVAL,
			     "snapshot table entry '%.64s' at offset %" PRIu64
			     ": %s (offset %" PRIu64 ", %" PRIu32 " entries)",
			     s->name, h->snapshots_off + s->entry_off, why, s->l1_off,
			     s->l1_entries);
}

/* ---- encode ---- */

uint64_t cow_snapshot_bytes(const struct cow_snapshot *s)
{
	return align8(FIXED_BYTES + s->extra_bytes + strlen(s->id) + strlen(s->name));
}

static void store_extra(const struct cow_snapshot *s, uint8_t *p)
{
	memcpy(p, s->extra, s->extra_bytes);
	if (s->extra_bytes >= EXTRA_VM_STATE + 8)
		cow_store64_be(p + EXTRA_VM_STATE, s->vm_state_bytes);
	if (s->extra_bytes >= EXTRA_DISK_SIZE + 8)
		cow_store64_be(p + EXTRA_DISK_SIZE, s->disk_bytes);
	if (s->extra_bytes >= EXTRA_ICOUNT + 8)
		cow_store64_be(p + EXTRA_ICOUNT, s->icount);
}

void cow_snapshot_encode(const struct cow_snapshot *s, uint8_t *buf)
{
	size_t id_bytes = strlen(s->id), name_bytes = strlen(s->name);
	cow_assert(id_bytes <= UINT16_MAX && name_bytes <= UINT16_MAX);
	cow_assert(s->extra_bytes <= QCOW2_MAX_SNAPSHOT_EXTRA_BYTES);
	memset(buf, 0, cow_snapshot_bytes(s));
	cow_store64_be(buf + AT(l1_table_offset), s->l1_off);
	cow_store32_be(buf + AT(l1_size), s->l1_entries);
	cow_store16_be(buf + AT(id_size), (uint16_t)id_bytes);
	cow_store16_be(buf + AT(name_size), (uint16_t)name_bytes);
	cow_store32_be(buf + AT(date_sec), s->date_sec);
	cow_store32_be(buf + AT(date_nsec), s->date_nsec);
	cow_store64_be(buf + AT(vm_clock_nsec), s->vm_clock_nsec);
	/* What does not fit stands in the extra data only. */
	cow_store32_be(buf + AT(vm_state_size),
		       s->vm_state_bytes > UINT32_MAX ? 0 : (uint32_t)s->vm_state_bytes);
	cow_store32_be(buf + AT(extra_data_size), s->extra_bytes);
	store_extra(s, buf + FIXED_BYTES);
	memcpy(buf + FIXED_BYTES + s->extra_bytes, s->id, id_bytes);
	memcpy(buf + FIXED_BYTES + s->extra_bytes + id_bytes, s->name, name_bytes);
}
