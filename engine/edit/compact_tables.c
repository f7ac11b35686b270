/* SPDX-License-Identifier: MIT */
/* See compact_tables.h. In this order: loading; storing. */
#include "engine/edit/compact_tables.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/base/assert.h"
#include "engine/edit/edit_fault.h"
#include "engine/edit/edit_refcount.h"
#include "engine/format/map.h"

/* ---- loading ---- */

static uint64_t nr_entries(const uint64_t *l1, uint64_t nr)
{
	uint64_t found = 0;
	for (uint64_t i = 0; i < nr; i++)
		found += l1[i] != 0;
	return found;
}

static int add_tables(struct cow_compact_tables *ts, struct cow_edit *e, const uint64_t *l1,
		      uint64_t nr)
{
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t off = l1[i] & QCOW2_OFFSET_MASK;
		if (!l1[i])
			continue;
		if (cow_map_l1_fault(&e->g, l1[i]) || !off || off >= e->file->size_bytes)
			return cow_edit_corrupt(e, off, "L2 table out of place");
		ts->t[ts->nr++] = (struct cow_compact_table){ .off = off, .to = off, .refs = 1 };
	}
	return 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct cow_compact_table *x = a, *y = b;
	return (x->off > y->off) - (x->off < y->off);
}

static void merge(struct cow_compact_tables *ts)
{
	uint64_t nr = 0;
	qsort(ts->t, ts->nr, sizeof(*ts->t), by_offset);
	for (uint64_t i = 0; i < ts->nr; i++) {
		if (nr && ts->t[nr - 1].off == ts->t[i].off)
			ts->t[nr - 1].refs++;
		else
			ts->t[nr++] = ts->t[i];
	}
	ts->nr = nr;
}

static int load_l1s(struct cow_compact_tables *ts, struct cow_edit *e)
{
	ts->l1 = calloc(e->header.nr_snapshots + 1, sizeof(*ts->l1));
	if (!ts->l1)
		return cow_error_no_memory(e->err);
	int ret = 0;
	for (uint32_t i = 0; i < e->header.nr_snapshots && !ret; i++) {
		ret = cow_edit_read_l1(e, e->snapshots[i].l1_off, e->snapshots[i].l1_entries,
				       &ts->l1[i]);
		ts->nr_l1 = i + 1;
	}
	return ret;
}

int cow_compact_tables_load(struct cow_compact_tables *ts, struct cow_edit *e)
{
	uint64_t max = nr_entries(e->l1, e->header.l1_entries);
	int ret = load_l1s(ts, e);
	for (uint32_t i = 0; i < ts->nr_l1 && !ret; i++)
		max += nr_entries(ts->l1[i], e->snapshots[i].l1_entries);
	if (ret)
		return ret;
	ts->t = calloc(max + 1, sizeof(*ts->t));
	if (!ts->t)
		return cow_error_no_memory(e->err);
	ret = add_tables(ts, e, e->l1, e->header.l1_entries);
	for (uint32_t i = 0; i < ts->nr_l1 && !ret; i++)
		ret = add_tables(ts, e, ts->l1[i], e->snapshots[i].l1_entries);
	merge(ts);
	return ret;
}

void cow_compact_tables_free(struct cow_compact_tables *ts)
{
	for (uint32_t i = 0; i < ts->nr_l1; i++)
		free(ts->l1[i]);
	free(ts->l1);
	free(ts->t);
}

/* ---- storing ---- */

/* The flags stay: as many lead to the table as before. */
static uint64_t entry_now(const struct cow_compact_tables *ts, uint64_t raw)
{
	struct cow_compact_table key = { .off = raw & QCOW2_OFFSET_MASK };
	if (!raw)
		return 0;
	const struct cow_compact_table *t = bsearch(&key, ts->t, ts->nr, sizeof(*ts->t), by_offset);
	cow_assert(t); /* made of these entries */
	return t->to ? (raw & ~QCOW2_OFFSET_MASK) | t->to : 0;
}

static bool rename_tables(const struct cow_compact_tables *ts, uint64_t *l1, uint64_t nr)
{
	bool changed = false;
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t now = entry_now(ts, l1[i]);
		changed |= now != l1[i];
		l1[i] = now;
	}
	return changed;
}

static bool reaches(uint64_t off, uint64_t bytes, uint64_t from)
{
	return bytes && off + bytes > from;
}

static int store_active(struct cow_compact_tables *ts, struct cow_edit *e, uint64_t from)
{
	uint32_t nr = e->header.l1_entries;
	e->l1_changed |= rename_tables(ts, e->l1, nr);
	e->l1_changed |= reaches(e->header.l1_off, (uint64_t)nr * 8, from);
	return cow_edit_move_l1(e, nr);
}

static int store_snapshot(struct cow_compact_tables *ts, struct cow_edit *e, uint32_t i,
			  uint64_t from, bool *moved)
{
	struct cow_snapshot *s = &e->snapshots[i];
	uint64_t bytes = (uint64_t)s->l1_entries * 8;
	if (!rename_tables(ts, ts->l1[i], s->l1_entries) && !reaches(s->l1_off, bytes, from))
		return 0;
	*moved = true;
	int ret = cow_edit_count(e, s->l1_off, bytes, -1);
	return ret ? ret : cow_edit_write_l1(e, ts->l1[i], s->l1_entries, &s->l1_off);
}

int cow_compact_tables_store(struct cow_compact_tables *ts, struct cow_edit *e, uint64_t from)
{
	bool moved = reaches(e->header.snapshots_off, e->snapshots_bytes, from);
	int ret = store_active(ts, e, from);
	for (uint32_t i = 0; i < ts->nr_l1 && !ret; i++)
		ret = store_snapshot(ts, e, i, from, &moved);
	if (!ret && moved)
		ret = cow_edit_write_snapshots(e);
	return ret;
}
