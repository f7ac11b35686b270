/* SPDX-License-Identifier: MIT */
/* See compact_step.h. In this order: what stays; how far; data; tables; the step. */
#include "engine/edit/compact_step.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/full.h"
#include "engine/base/math.h"
#include "engine/edit/edit_fault.h"
#include "engine/edit/edit_refcount.h"
#include "engine/format/map.h"
#include "engine/loop/blocking.h"

/* A step is worth it if it moves so much, and so many times the tables that it may rewrite. */
#define STEP_BYTES (256ull << 20)
#define STEP_TABLES 4u

int cow_compact_step_before(struct cow_compact_step *s, uint64_t bytes)
{
	const struct cow_compact_options *o = s->options;
	int ret = o->before ? o->before(o->ctx, s->e.loop, bytes, s->total_bytes) : 0;
	return ret ? cow_error_set(s->e.err, ret, "%s", strerror(-ret)) : 0;
}

/* ---- what stays ---- */

static void stays(struct cow_compact_step *s, uint64_t off, uint64_t bytes, const char *what)
{
	uint64_t end = (off + bytes + s->e.g.cluster_bytes - 1) >> s->e.g.cluster_bits;
	if (!bytes || end <= s->fixed)
		return;
	s->fixed = end;
	s->fixed_as = what;
}

int cow_compact_step_read_table(struct cow_compact_step *s, uint64_t off)
{
	struct cow_edit *e = &s->e;
	int ret = cow_loop_read(e->loop, e->file, off, e->table, e->g.cluster_bytes);
	return ret ? cow_error_set(e->err, ret, "L2 table at offset %" PRIu64 ": %s", off,
				   strerror(-ret))
		   : 0;
}

/* Calls visit() for each entry that is one, of all tables. */
static int walk(struct cow_compact_step *s,
		int (*visit)(struct cow_compact_step *s, const struct cow_compact_table *t,
			     struct cow_l2_entry entry))
{
	int ret = 0;
	for (uint64_t i = 0; i < s->tables.nr && !ret; i++) {
		ret = cow_compact_step_read_table(s, s->tables.t[i].off);
		for (uint32_t at = 0; at < 1u << s->e.g.l2_bits && !ret; at++) {
			struct cow_l2_entry entry = cow_entry_get(&s->e.g, s->e.table, at);
			if (entry.raw && cow_entry_fault(&s->e.g, entry))
				ret = cow_edit_corrupt(&s->e, s->tables.t[i].off,
						       cow_entry_fault(&s->e.g, entry));
			else if (entry.raw)
				ret = visit(s, &s->tables.t[i], entry);
		}
	}
	return ret;
}

static int data_stays(struct cow_compact_step *s, const struct cow_compact_table *t,
		      struct cow_l2_entry entry)
{
	(void)t;
	if (!(entry.raw & QCOW2_COMPRESSED) && (entry.raw & QCOW2_OFFSET_MASK))
		stays(s, entry.raw & QCOW2_OFFSET_MASK, s->e.g.cluster_bytes,
		      "data that is encrypted by its place");
	return 0;
}

static void bitmap_stays(void *ctx, uint64_t off, uint64_t bytes)
{
	stays(ctx, off, bytes, "a dirty bitmap");
}

static int copy_bitmap(void *ctx, uint64_t host, uint64_t to)
{
	return cow_compact_step_copy(ctx, host, to);
}

static int look(struct cow_compact_step *s)
{
	struct cow_edit *e = &s->e;
	for (uint64_t i = 0; i < e->nr_blocks; i++)
		s->nr_blocks += e->blocks[i].old_off != 0;
	stays(s, 0, e->g.cluster_bytes, NULL);
	if (e->ext.has_crypto)
		stays(s, e->ext.crypto_off, e->ext.crypto_bytes, "the encryption header");
	s->bitmaps = (struct cow_compact_bitmaps){
		.e = e, .ctx = s, .stays = bitmap_stays, .copy = copy_bitmap
	};
	int ret = cow_compact_bitmaps_look(&s->bitmaps);
	if (!ret && e->header.crypt_method == QCOW2_CRYPT_LUKS)
		ret = walk(s, data_stays);
	/* a crash may leave refcounts of clusters that the file never got */
	uint64_t behind = (e->file->size_bytes + e->g.cluster_bytes - 1) >> e->g.cluster_bits;
	if (!ret)
		ret = cow_edit_forget(e, behind);
	return ret ? ret : cow_edit_usage(e, &s->used, &s->end);
}

int cow_compact_step_open(struct cow_compact_step *s, struct cow_loop *loop, struct cow_file *file,
			  struct cow_error *err)
{
	int ret = cow_edit_open_any(&s->e, loop, file, err);
	if (ret)
		return ret;
	s->copy = cow_buf_alloc(s->e.g.cluster_bytes);
	ret = s->copy ? cow_compact_tables_load(&s->tables, &s->e) : cow_error_no_memory(err);
	return ret ? ret : look(s);
}

void cow_compact_step_close(struct cow_compact_step *s)
{
	cow_compact_tables_free(&s->tables);
	cow_compact_packed_free(&s->packed);
	free(s->to);
	free(s->copy);
	cow_edit_close(&s->e);
}

/* ---- how far ---- */

uint64_t cow_compact_step_clusters(const struct cow_compact_step *s)
{
	uint64_t tables = s->tables.nr << s->e.g.cluster_bits;
	uint64_t bytes = cow_max(STEP_BYTES, STEP_TABLES * tables);
	if (s->options->step_bytes)
		bytes = s->options->step_bytes;
	return cow_max(bytes >> s->e.g.cluster_bits, 1);
}

uint64_t cow_compact_step_least(const struct cow_compact_step *s)
{
	return cow_max(s->used, s->fixed);
}

/* Clusters that are written anew beside nr that move: the tables that lead there, and all fixed ones. */
static uint64_t beside(const struct cow_compact_step *s, uint64_t nr)
{
	const struct cow_edit *e = &s->e;
	uint64_t l1_bytes = ((uint64_t)e->header.l1_entries * 8) << !!e->header.nr_snapshots;
	return cow_min(nr, s->tables.nr) + s->bitmaps.clusters + s->nr_blocks +
	       e->header.reftable_clusters + 1 + (l1_bytes >> e->g.cluster_bits);
}

bool cow_compact_step_smaller(const struct cow_compact_step *s, int ret,
			      struct cow_compact_options *options)
{
	uint64_t clusters = s->e.g.cluster_bits ? cow_compact_step_clusters(s) : 0;
	if (!cow_full_is(ret) || clusters <= 1)
		return false;
	options->step_bytes = cow_max(clusters / 4, 1) << s->e.g.cluster_bits;
	*s->e.err = (struct cow_error){ 0 };
	return true;
}

enum room { WITH_ROOM, WITHOUT };

/*
 * From the end downwards: clusters in use, none of which has to stay or may. At first only as far as
 * there is room below for them and for what is written anew beside; when there is none, all.
 */
static int choose_from(struct cow_compact_step *s, enum room want)
{
	uint64_t least = cow_compact_step_least(s), most = cow_compact_step_clusters(s), count,
		 nr = 0;
	int ret = 0;
	if (s->all)
		most = UINT64_MAX;
	s->from = s->end;
	for (uint64_t c = s->end; c > least && nr < most && s->end - c < COW_COMPACT_STEP_MOST;
	     c--) {
		ret = cow_edit_refcount(&s->e, c - 1, &count);
		nr += count != 0;
		uint64_t room = c - 1 - (s->used - nr);
		if (ret || (want == WITH_ROOM && room < nr + beside(s, nr)))
			break;
		s->from = c - 1;
	}
	return ret;
}

int cow_compact_step_total(struct cow_compact_step *s, uint64_t *bytes)
{
	uint64_t count;
	int ret = 0;
	*bytes = 0;
	for (uint64_t c = cow_compact_step_least(s); c < s->end && !ret; c++) {
		ret = cow_edit_refcount(&s->e, c, &count);
		*bytes += (uint64_t)(count != 0) << s->e.g.cluster_bits;
	}
	return ret;
}

static int choose(struct cow_compact_step *s)
{
	int ret = choose_from(s, s->all ? WITHOUT : WITH_ROOM);
	if (!ret && s->from == s->end)
		ret = choose_from(s, WITHOUT);
	if (ret || s->from == s->end)
		return ret;
	s->bitmaps.from = s->from;
	s->to = calloc(s->end - s->from, sizeof(*s->to));
	return s->to ? 0 : cow_error_no_memory(s->e.err);
}

/* ---- data ---- */

int cow_compact_step_copy(struct cow_compact_step *s, uint64_t host, uint64_t to)
{
	struct cow_edit *e = &s->e;
	int ret = cow_compact_step_before(s, e->g.cluster_bytes);
	if (ret)
		return ret;
	ret = cow_loop_read(e->loop, e->file, host, s->copy, e->g.cluster_bytes);
	if (ret)
		return cow_error_set(e->err, ret, "data at offset %" PRIu64 ": %s", host,
				     strerror(-ret));
	s->moved_bytes += e->g.cluster_bytes;
	return cow_edit_cannot_write(
		e, cow_loop_write(e->loop, e->file, to, s->copy, e->g.cluster_bytes));
}

/* Whoever meets it first decides whether it moves: all that lead there do as one. */
static int move_data(struct cow_compact_step *s, uint64_t host, uint32_t refs, uint64_t *now)
{
	struct cow_edit *e = &s->e;
	uint64_t *slot = &s->to[(host >> e->g.cluster_bits) - s->from], off = 0;
	bool first = !*slot;
	int ret = 0;
	if (first && !s->full) {
		ret = cow_edit_alloc_below(e, 1, s->from, &off);
		s->full = !off;
		if (!ret && off)
			ret = cow_compact_step_copy(s, host, off);
	}
	if (first)
		*slot = off ? off : host;
	*now = *slot;
	if (ret || *now == host)
		return ret;
	ret = cow_edit_count(e, *now, e->g.cluster_bytes, (int)refs - first);
	return ret ? ret : cow_edit_count(e, host, e->g.cluster_bytes, -(int)refs);
}

/* ---- tables ---- */

static bool is_behind(const struct cow_compact_step *s, uint64_t off, uint64_t bytes)
{
	return off + bytes > s->from << s->e.g.cluster_bits;
}

static int collect_packed(struct cow_compact_step *s, const struct cow_compact_table *t,
			  struct cow_l2_entry entry)
{
	struct cow_compressed c = cow_compressed_decode(entry.raw, s->e.g.cluster_bits);
	if (!(entry.raw & QCOW2_COMPRESSED) || !is_behind(s, c.off, c.bytes))
		return 0;
	return cow_compact_packed_add(&s->packed, &s->e, entry.raw, t->refs);
}

static int move_entry(struct cow_compact_step *s, const struct cow_compact_table *t,
		      struct cow_l2_entry *entry)
{
	const struct cow_geometry *g = &s->e.g;
	uint64_t host = entry->raw & QCOW2_OFFSET_MASK, now;
	if (entry->raw & QCOW2_COMPRESSED) {
		entry->raw = cow_compact_packed_word(&s->packed, entry->raw, g->cluster_bits);
		return 0;
	}
	if (!host || g->data_file || !is_behind(s, host, g->cluster_bytes))
		return 0;
	int ret = move_data(s, host, t->refs, &now);
	entry->raw = (entry->raw & ~QCOW2_OFFSET_MASK) | now; /* COPIED too: it counts as before */
	return ret;
}

enum why {
	CHANGED, /* it needs a new place, wherever that is */
	BEHIND,	 /* it may stay where it is, if there is no room below */
};

/* The table in e->table goes to a new place. */
static int move_table(struct cow_compact_step *s, struct cow_compact_table *t, enum why why)
{
	struct cow_edit *e = &s->e;
	uint64_t off;
	int ret = why == CHANGED || e->tables_from ? cow_edit_alloc(e, 1, &off)
						   : cow_edit_alloc_below(e, 1, s->from, &off);
	if (ret || !off)
		return ret;
	ret = cow_edit_count(e, off, e->g.cluster_bytes, (int)t->refs - 1);
	if (!ret)
		ret = cow_edit_count(e, t->off, e->g.cluster_bytes, -(int)t->refs);
	t->to = off;
	if (ret)
		return ret;
	return cow_edit_cannot_write(
		e, cow_loop_write(e->loop, e->file, off, e->table, e->g.cluster_bytes));
}

static int drop_table(struct cow_compact_step *s, struct cow_compact_table *t)
{
	t->to = 0;
	return cow_edit_count(&s->e, t->off, s->e.g.cluster_bytes, -(int)t->refs);
}

static bool is_empty(const struct cow_edit *e)
{
	return !e->table[0] && !memcmp(e->table, e->table + 1, e->g.cluster_bytes - 1);
}

static int put_table(struct cow_compact_step *s, struct cow_compact_table *t, enum why why)
{
	return is_empty(&s->e) ? drop_table(s, t) : move_table(s, t, why);
}

int cow_compact_step_change_table(struct cow_compact_step *s, struct cow_compact_table *t)
{
	return put_table(s, t, CHANGED);
}

static int do_table(struct cow_compact_step *s, struct cow_compact_table *t)
{
	struct cow_edit *e = &s->e;
	bool changed = false;
	int ret = cow_compact_step_read_table(s, t->off);
	for (uint32_t at = 0; at < 1u << e->g.l2_bits && !ret; at++) {
		struct cow_l2_entry entry = cow_entry_get(&e->g, e->table, at), was = entry;
		if (entry.raw)
			ret = move_entry(s, t, &entry);
		if (entry.raw == was.raw)
			continue;
		cow_entry_set(&e->g, e->table, at, entry);
		changed = true;
	}
	if (ret)
		return ret;
	if (!changed && !is_empty(e) && !is_behind(s, t->off, e->g.cluster_bytes))
		return 0;
	return put_table(s, t, changed ? CHANGED : BEHIND);
}

/* ---- the step ---- */

static int packed_before(void *ctx, uint64_t bytes)
{
	struct cow_compact_step *s = ctx;
	s->moved_bytes += bytes;
	return cow_compact_step_before(s, bytes);
}

static int move(struct cow_compact_step *s)
{
	struct cow_edit *e = &s->e;
	uint64_t from = s->from << e->g.cluster_bits;
	int ret = walk(s, collect_packed);
	if (!ret)
		ret = cow_compact_packed_move(&s->packed, e, from, packed_before, s);
	for (uint64_t i = 0; i < s->tables.nr && !ret; i++)
		ret = do_table(s, &s->tables.t[i]);
	if (!ret)
		ret = cow_compact_tables_store(&s->tables, e, from);
	if (!ret)
		ret = cow_compact_bitmaps_move(&s->bitmaps);
	if (!ret)
		ret = cow_edit_move_blocks(e, from);
	if (!ret)
		ret = cow_edit_drop_blocks(e);
	return ret ? ret : cow_edit_place_refcounts(e);
}

static int cut(struct cow_compact_step *s, uint64_t end)
{
	struct cow_edit *e = &s->e;
	uint64_t bytes = end << e->g.cluster_bits;
	cow_assert(e->committed);
	if (e->file->block_device || e->file->size_bytes <= bytes)
		return 0;
	int ret = cow_loop_resize(e->loop, e->file, bytes);
	return ret ? cow_error_set(e->err, ret, "cannot cut the file: %s", strerror(-ret)) : 0;
}

int cow_compact_step_run(struct cow_compact_step *s, uint64_t *gained)
{
	uint64_t used, end;
	*gained = 0;
	int ret = choose(s);
	if (ret || s->from == s->end)
		return ret;
	ret = move(s);
	if (!ret)
		ret = cow_edit_usage(&s->e, &used, &end);
	if (ret || end >= s->end)
		return ret;
	ret = cow_edit_commit(&s->e);
	if (ret)
		return ret;
	*gained = s->end - end;
	s->result->moved_bytes += s->moved_bytes;
	return cut(s, end);
}

int cow_compact_step_lift(struct cow_compact_step *s)
{
	s->all = true;
	s->e.tables_from = s->end;
	int ret = choose(s);
	if (ret || s->from == s->end)
		return ret;
	ret = move(s);
	if (!ret)
		ret = cow_edit_commit(&s->e);
	if (!ret)
		s->result->moved_bytes += s->moved_bytes;
	return ret;
}
