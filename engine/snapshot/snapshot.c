/* SPDX-License-Identifier: MIT */
/*
 * The commands on internal snapshots, each an edit (edit.h): change in memory, then
 * commit.
 */
#include "engine/snapshot/snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/edit/edit.h"
#include "engine/edit/edit_fault.h"
#include "engine/edit/edit_refcount.h"
#include "engine/edit/edit_share.h"
#include "engine/snapshot/snapshot_list.h"
#include "engine/snapshot/snapshot_select.h"

/* ---- create ---- */

static int add_entry(struct cow_edit *e, const char *name, const struct cow_snapshot_date *date)
{
	int ret = cow_snapshot_list_add(&e->snapshots, &e->header, name, date, e->err);
	if (ret)
		return ret;
	struct cow_snapshot *s = &e->snapshots[e->header.nr_snapshots - 1];
	return cow_edit_write_l1(e, e->l1, e->header.l1_entries, &s->l1_off);
}

/* Everything has two paths to it; tables whose flags change move with both. */
static int create(struct cow_edit *e, const char *name, const struct cow_snapshot_date *date)
{
	int ret = cow_snapshot_list_may_add(e->snapshots, &e->header, name, e->err);
	if (!ret)
		ret = cow_edit_share(e, e->l1, e->header.l1_entries, 1);
	if (!ret)
		ret = cow_edit_fix_copied(e, 2);
	if (!ret)
		ret = cow_edit_move_l1(e, e->header.l1_entries);
	if (!ret)
		ret = add_entry(e, name, date);
	if (!ret)
		ret = cow_edit_write_snapshots(e);
	return ret ? ret : cow_edit_commit(e);
}

int cow_snapshot_create(struct cow_loop *loop, struct cow_file *file, const char *name,
			const struct cow_snapshot_date *date, char **id, struct cow_error *err)
{
	struct cow_edit e;
	int ret = cow_edit_open(&e, loop, file, err);
	if (ret)
		return ret;
	ret = create(&e, name, date);
	if (!ret && id)
		*id = strdup(e.snapshots[e.header.nr_snapshots - 1].id);
	cow_edit_close(&e);
	return ret;
}

/* ---- apply ---- */

static int may_apply(struct cow_edit *e, const struct cow_snapshot *s)
{
	if (e->ext.has_bitmaps && e->ext.nr_bitmaps &&
	    (e->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return cow_error_set(
			e->err, -EBUSY,
			"the image has dirty bitmaps, which would be wrong afterwards: remove "
			"them first");
	if (s->disk_bytes % 512 || s->disk_bytes > INT64_MAX)
		return cow_error_set(e->err, -EINVAL,
				     "snapshot '%s': its disk size %" PRIu64
				     " is no multiple of 512",
				     s->name, s->disk_bytes);
	if (cow_header_l1_entries(&e->header, s->disk_bytes) > QCOW2_MAX_L1_BYTES / 8)
		return cow_error_set(e->err, -EINVAL,
				     "snapshot '%s': its disk size %" PRIu64
				     " needs an L1 table of more "
				     "than 32 MiB",
				     s->name, s->disk_bytes);
	return 0;
}

static int set_size(struct cow_edit *e, uint64_t size_bytes)
{
	if (size_bytes == e->header.size_bytes)
		return 0;
	cow_edit_complete_snapshots(e);
	e->header.size_bytes = size_bytes;
	return cow_edit_write_snapshots(e);
}

/* *l1: the snapshot's, lengthened if its disk needs more. */
static int copy_l1(struct cow_edit *e, const struct cow_snapshot *s, uint64_t **l1, uint32_t *nr)
{
	uint64_t need = cow_header_l1_entries(&e->header, s->disk_bytes);
	*nr = s->l1_entries > need ? s->l1_entries : (uint32_t)need;
	int ret = cow_edit_read_l1(e, s->l1_off, s->l1_entries, l1);
	if (ret)
		return ret;
	uint64_t *longer = reallocarray(*l1, *nr + 1ul, 8);
	if (!longer) {
		free(*l1);
		return cow_error_no_memory(e->err);
	}
	memset(longer + s->l1_entries, 0, (*nr - s->l1_entries) * 8ul);
	*l1 = longer;
	return 0;
}

/* First up, then down: what both refer to never looks free. */
static int switch_l1(struct cow_edit *e, uint64_t *l1, uint32_t nr)
{
	uint64_t *old = e->l1;
	uint32_t old_nr = e->header.l1_entries;
	int ret = cow_edit_share(e, l1, nr, 1);
	if (!ret)
		ret = cow_edit_share(e, old, old_nr, -1);
	free(old);
	e->l1 = l1;
	e->header.l1_entries = nr;
	e->l1_changed = true;
	if (!ret)
		ret = cow_edit_fix_copied(e, 1);
	return ret ? ret : cow_edit_move_l1(e, old_nr);
}

static int apply(struct cow_edit *e, const struct cow_snapshot_key *key)
{
	uint32_t idx, nr;
	uint64_t *l1;
	int ret = cow_snapshot_find(e->snapshots, e->header.nr_snapshots, key, &idx, e->err);
	if (!ret)
		ret = may_apply(e, &e->snapshots[idx]);
	if (!ret)
		ret = copy_l1(e, &e->snapshots[idx], &l1, &nr);
	if (!ret)
		ret = switch_l1(e, l1, nr);
	if (!ret)
		ret = set_size(e, e->snapshots[idx].disk_bytes);
	return ret ? ret : cow_edit_commit(e);
}

int cow_snapshot_apply(struct cow_loop *loop, struct cow_file *file,
		       const struct cow_snapshot_key *key, struct cow_error *err)
{
	struct cow_edit e;
	int ret = cow_edit_open(&e, loop, file, err);
	if (ret)
		return ret;
	ret = apply(&e, key);
	cow_edit_close(&e);
	return ret;
}

/* ---- delete ---- */

static int drop_references(struct cow_edit *e, const struct cow_snapshot *s)
{
	uint64_t *l1;
	int ret = cow_edit_read_l1(e, s->l1_off, s->l1_entries, &l1);
	if (ret)
		return ret;
	ret = cow_edit_share(e, l1, s->l1_entries, -1);
	if (!ret)
		ret = cow_edit_count(e, s->l1_off, (uint64_t)s->l1_entries * 8, -1);
	free(l1);
	return ret;
}

/* The active tables are verified first: moving those whose flags change writes to free clusters. */
static int delete (struct cow_edit *e, const struct cow_snapshot_key *key)
{
	uint32_t idx;
	int ret = cow_snapshot_find(e->snapshots, e->header.nr_snapshots, key, &idx, e->err);
	if (!ret)
		ret = cow_snapshot_lock_exclusive(e->file, &e->snapshots[idx], e->err);
	if (!ret)
		ret = cow_edit_share(e, e->l1, e->header.l1_entries, 0);
	if (!ret)
		ret = drop_references(e, &e->snapshots[idx]);
	if (ret)
		return ret;
	cow_snapshot_list_remove(e->snapshots, &e->header, idx);
	ret = cow_edit_fix_copied(e, 1);
	if (!ret)
		ret = cow_edit_move_l1(e, e->header.l1_entries);
	if (!ret)
		ret = cow_edit_write_snapshots(e);
	return ret ? ret : cow_edit_commit(e);
}

int cow_snapshot_delete(struct cow_loop *loop, struct cow_file *file,
			const struct cow_snapshot_key *key, struct cow_error *err)
{
	struct cow_edit e;
	int ret = cow_edit_open(&e, loop, file, err);
	if (ret)
		return ret;
	ret = delete (&e, key);
	cow_edit_close(&e);
	return ret;
}
