/* SPDX-License-Identifier: MIT */
/*
 * The commands on internal snapshots, each an edit (snapshot_edit.h): change in memory, then
 * commit.
 */
#include "engine/snapshot/snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/edit/edit.h"
#include "engine/snapshot/snapshot_select.h"

#define EXTRA_BYTES 24u /* VM state size, disk size, instruction count: what QEMU writes */
#define EXTRA_SIZES_BYTES 16u

/* ---- finding ---- */

static bool matches(const struct cow_snapshot *s, const struct cow_snapshot_key *key)
{
	return (key->by != COW_SNAPSHOT_BY_NAME && !strcmp(s->id, key->text)) ||
	       (key->by != COW_SNAPSHOT_BY_ID && !strcmp(s->name, key->text));
}

int cow_snapshot_find(const struct cow_snapshot *list, uint32_t nr,
		      const struct cow_snapshot_key *key, uint32_t *idx, struct cow_error *err)
{
	uint32_t found = 0;
	for (uint32_t i = 0; i < nr; i++) {
		if (!matches(&list[i], key))
			continue;
		*idx = i;
		found++;
	}
	if (!found)
		return cow_error_set(err, -ENOENT, "no snapshot has the %s '%s'",
				     key->by == COW_SNAPSHOT_BY_ID     ? "id"
				     : key->by == COW_SNAPSHOT_BY_NAME ? "name"
								       : "id or name",
				     key->text);
	if (found > 1)
		return cow_error_set(err, -EINVAL,
				     "'%s' fits %" PRIu32 " snapshots: say which by its id",
				     key->text, found);
	return 0;
}

/* The smallest that no snapshot has; 0: out of memory. */
static unsigned long free_id(const struct cow_snapshot *list, uint32_t nr)
{
	bool *taken = calloc(nr + 2ul, sizeof(*taken));
	unsigned long id = 1;
	if (!taken)
		return 0;
	for (uint32_t i = 0; i < nr; i++) {
		unsigned long n = strtoul(list[i].id, NULL, 10);
		if (n <= nr)
			taken[n] = true;
	}
	while (taken[id])
		id++;
	free(taken);
	return id;
}

/*
 * As QEMU numbers them: the largest and one more. Behind the largest number that there can be comes
 * the first that is free.
 */
static char *next_id(const struct cow_snapshot *list, uint32_t nr)
{
	unsigned long next = 0;
	char *id;
	for (uint32_t i = 0; i < nr; i++) {
		unsigned long n = strtoul(list[i].id, NULL, 10);
		next = n > next ? n : next;
	}
	if (++next == 0)
		next = free_id(list, nr);
	return !next || asprintf(&id, "%lu", next) < 0 ? NULL : id;
}

/* ---- create ---- */

static int check_name(const struct cow_edit *e, const char *name)
{
	const struct cow_snapshot_key key = { .text = name, .by = COW_SNAPSHOT_BY_NAME };
	uint32_t idx;
	if (!name[0])
		return cow_error_set(e->err, -EINVAL, "the snapshot's name is empty");
	if (strlen(name) > COW_SNAPSHOT_MAX_NAME_BYTES)
		return cow_error_set(e->err, -EINVAL, "the snapshot's name is longer than %u bytes",
				     COW_SNAPSHOT_MAX_NAME_BYTES);
	if (cow_snapshot_find(e->snapshots, e->header.nr_snapshots, &key, &idx, NULL) != -ENOENT)
		return cow_error_set(e->err, -EEXIST, "there is a snapshot '%s' already", name);
	if (e->header.nr_snapshots == QCOW2_MAX_SNAPSHOTS)
		return cow_error_set(e->err, -EFBIG,
				     "there are %u snapshots already, which is the most",
				     QCOW2_MAX_SNAPSHOTS);
	return 0;
}

/* Room for one more; it is nr_snapshots' from then on. */
static struct cow_snapshot *append(struct cow_edit *e)
{
	struct cow_snapshot *more =
		reallocarray(e->snapshots, e->header.nr_snapshots + 1ul, sizeof(*more));
	if (!more)
		return NULL;
	e->snapshots = more;
	memset(&more[e->header.nr_snapshots], 0, sizeof(*more));
	return &more[e->header.nr_snapshots++];
}

static int add_entry(struct cow_edit *e, const char *name, const struct cow_snapshot_date *date)
{
	char *id = next_id(e->snapshots, e->header.nr_snapshots), *copy = strdup(name);
	struct cow_snapshot *s = id && copy ? append(e) : NULL;
	if (!s) {
		free(id);
		free(copy);
		return cow_error_set(e->err, -ENOMEM, "out of memory");
	}
	s->id = id;
	s->name = copy;
	s->date_sec = date->sec;
	s->date_nsec = date->nsec;
	s->disk_bytes = e->header.size_bytes;
	s->icount = UINT64_MAX;
	s->extra_bytes = EXTRA_BYTES;
	s->l1_entries = e->header.l1_entries;
	return cow_edit_write_l1(e, e->l1, e->header.l1_entries, &s->l1_off);
}

/* Everything has two paths to it; tables whose flags change move with both. */
static int create(struct cow_edit *e, const char *name, const struct cow_snapshot_date *date)
{
	int ret = check_name(e, name);
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
	if (cow_l1_entries_for(&e->header, s->disk_bytes) > QCOW2_MAX_L1_BYTES / 8)
		return cow_error_set(e->err, -EINVAL,
				     "snapshot '%s': its disk size %" PRIu64
				     " needs an L1 table of more "
				     "than 32 MiB",
				     s->name, s->disk_bytes);
	return 0;
}

/* Entries without a disk size of their own mean the image's: before that changes they get one. */
static void record_sizes(struct cow_edit *e)
{
	for (uint32_t i = 0; i < e->header.nr_snapshots; i++)
		if (e->snapshots[i].extra_bytes < EXTRA_SIZES_BYTES)
			e->snapshots[i].extra_bytes = EXTRA_SIZES_BYTES;
}

static int set_size(struct cow_edit *e, uint64_t size_bytes)
{
	if (size_bytes == e->header.size_bytes)
		return 0;
	record_sizes(e);
	e->header.size_bytes = size_bytes;
	return cow_edit_write_snapshots(e);
}

/* *l1: the snapshot's, lengthened if its disk needs more. */
static int copy_l1(struct cow_edit *e, const struct cow_snapshot *s, uint64_t **l1, uint32_t *nr)
{
	uint64_t need = cow_l1_entries_for(&e->header, s->disk_bytes);
	*nr = s->l1_entries > need ? s->l1_entries : (uint32_t)need;
	int ret = cow_edit_read_l1(e, s->l1_off, s->l1_entries, l1);
	if (ret)
		return ret;
	uint64_t *longer = reallocarray(*l1, *nr + 1ul, 8);
	if (!longer) {
		free(*l1);
		return cow_error_set(e->err, -ENOMEM, "out of memory");
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

static void remove_entry(struct cow_edit *e, uint32_t idx)
{
	free(e->snapshots[idx].id);
	free(e->snapshots[idx].name);
	e->header.nr_snapshots--;
	memmove(&e->snapshots[idx], &e->snapshots[idx + 1],
		(e->header.nr_snapshots - idx) * sizeof(*e->snapshots));
}

/* The active tables are verified first: moving those whose flags change writes to free clusters. */
static int delete (struct cow_edit *e, const struct cow_snapshot_key *key)
{
	uint32_t idx;
	int ret = cow_snapshot_find(e->snapshots, e->header.nr_snapshots, key, &idx, e->err);
	if (!ret)
		ret = cow_snapshot_lock(e->file, &e->snapshots[idx], true, e->err);
	if (!ret)
		ret = cow_edit_share(e, e->l1, e->header.l1_entries, 0);
	if (!ret)
		ret = drop_references(e, &e->snapshots[idx]);
	if (ret)
		return ret;
	remove_entry(e, idx);
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
