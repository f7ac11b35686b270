/* SPDX-License-Identifier: MIT */
/* See compact_zeroes.h. In this order: an entry; a table; all of them. */
#include "engine/edit/compact_zeroes.h"

#include <inttypes.h>
#include <string.h>

#include "engine/base/math.h"
#include "engine/edit/compact_step.h"
#include "engine/edit/edit_refcount.h"
#include "engine/format/map.h"
#include "engine/loop/blocking.h"

/* ---- an entry ---- */

bool cow_compact_zeroes_are(const uint8_t *buf, uint64_t bytes)
{
	return !buf[0] && !memcmp(buf, buf + 1, bytes - 1);
}

/* All that is valid of the cluster in s->copy. */
static bool is_zero(const struct cow_compact_step *s, struct cow_l2_entry entry)
{
	const struct cow_geometry *g = &s->e.g;
	if (!g->extended_l2)
		return cow_compact_zeroes_are(s->copy, g->cluster_bytes);
	for (unsigned sub = 0; sub < 32; sub++)
		if ((entry.subs >> sub & 1) &&
		    !cow_compact_zeroes_are(s->copy + sub * g->sub_bytes, g->sub_bytes))
			return false;
	return true;
}

/* What reads the same, without a cluster. */
struct cow_l2_entry cow_compact_zeroes_instead(const struct cow_edit *e, struct cow_l2_entry entry)
{
	bool over = e->header.backing_name_off != 0;
	if (!over)
		return (struct cow_l2_entry){ 0 };
	if (!e->g.extended_l2)
		return (struct cow_l2_entry){ .raw = QCOW2_ZERO };
	return (struct cow_l2_entry){ .subs = (entry.subs & COW_SUBS_ZERO) | entry.subs << 32 };
}

static int look_at(struct cow_compact_step *s, const struct cow_compact_table *t,
		   struct cow_l2_entry *entry)
{
	struct cow_edit *e = &s->e;
	uint64_t host = entry->raw & QCOW2_OFFSET_MASK;
	bool zero = !e->g.extended_l2 && (entry->raw & QCOW2_ZERO);
	if ((entry->raw & QCOW2_COMPRESSED) || !host || !(zero || s->options->zeroes))
		return 0;
	int ret = cow_compact_step_before(s, e->g.cluster_bytes);
	if (!ret && !zero) {
		ret = cow_loop_read(e->loop, e->file, host, s->copy, e->g.cluster_bytes);
		if (ret)
			return cow_error_set(e->err, ret, "data at offset %" PRIu64 ": %s", host,
					     strerror(-ret));
		zero = is_zero(s, *entry);
	}
	if (ret || !zero)
		return ret;
	*entry = cow_compact_zeroes_instead(e, *entry);
	s->moved_bytes += e->g.cluster_bytes; /* once for each that leads there */
	return cow_edit_count(e, host, e->g.cluster_bytes, -(int)t->refs);
}

/* ---- a table ---- */

static int look_through(struct cow_compact_step *s, struct cow_compact_table *t)
{
	struct cow_edit *e = &s->e;
	bool changed = false;
	int ret = cow_compact_step_read_table(s, t->off);
	for (uint32_t at = 0; at < 1u << e->g.l2_bits && !ret; at++) {
		struct cow_l2_entry entry = cow_entry_get(&e->g, e->table, at), was = entry;
		ret = look_at(s, t, &entry);
		if (entry.raw == was.raw && entry.subs == was.subs)
			continue;
		cow_entry_set(&e->g, e->table, at, entry);
		changed = true;
	}
	return ret || !changed ? ret : cow_compact_step_change_table(s, t);
}

/* ---- all of them ---- */

bool cow_compact_zeroes_may(const struct cow_compact_step *s)
{
	const struct cow_edit *e = &s->e;
	bool over = e->header.backing_name_off != 0;
	return !e->g.data_file && !e->header.crypt_method && (e->g.version >= 3 || !over);
}

static int give_up(struct cow_compact_step *s)
{
	struct cow_edit *e = &s->e;
	int ret = 0;
	s->total_bytes = s->used << e->g.cluster_bits;
	for (uint64_t i = 0; i < s->tables.nr && !ret; i++)
		ret = look_through(s, &s->tables.t[i]);
	if (ret || !s->moved_bytes)
		return ret;
	ret = cow_compact_tables_store(&s->tables, e, UINT64_MAX);
	if (!ret)
		ret = cow_edit_drop_blocks(e);
	return ret ? ret : cow_edit_commit(e);
}

int cow_compact_zeroes(struct cow_loop *loop, struct cow_file *file,
		       const struct cow_compact_options *options, struct cow_compact_result *result,
		       struct cow_error *err)
{
	struct cow_compact_step s = { .options = options, .result = result };
	int ret = cow_compact_step_open(&s, loop, file, err);
	uint64_t used = s.used, end;
	if (!ret)
		result->bytes_before = s.end << s.e.g.cluster_bits;
	if (!ret && cow_compact_zeroes_may(&s))
		ret = give_up(&s);
	if (!ret && s.e.committed)
		ret = cow_edit_usage(&s.e, &s.used, &end);
	if (!ret)
		result->zeroes_bytes = (used - cow_min(s.used, used)) << s.e.g.cluster_bits;
	cow_compact_step_close(&s);
	return ret;
}
