/* SPDX-License-Identifier: MIT */
/* See shadow.h: entries, COPIED flags, refcounts. */
#include "engine/snapshot/shadow.h"

#include <errno.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/format/map.h"

static struct cow_l2_entry get_entry(const struct cow_geometry *g, const uint8_t *table,
				     uint32_t at)
{
	return (struct cow_l2_entry){
		.raw = cow_load64_be(table + at),
		.subs = g->extended_l2 ? cow_load64_be(table + at + 8) : 0,
	};
}

/* Whole entries of one table. */
static void stand_on_part(const struct cow_geometry *g, struct cow_shadow_part part)
{
	cow_assert(part.from <= part.to && part.to <= g->cluster_bytes);
	cow_assert(!((part.from | part.to) & (g->entry_bytes - 1)));
}

const char *cow_shadow_fault(const struct cow_geometry *g, const uint8_t *table,
			     struct cow_shadow_part part, uint32_t *at)
{
	stand_on_part(g, part);
	for (*at = part.from; *at < part.to; *at += g->entry_bytes) {
		const char *fault = cow_entry_fault(g, get_entry(g, table, *at));
		if (fault)
			return fault;
	}
	return NULL;
}

/* ---- counting ---- */

/* Host clusters [first, first + nr) that an entry refers to. */
struct refs {
	uint64_t first, nr;
};

static struct refs entry_refs(const struct cow_geometry *g, uint64_t raw)
{
	if (raw & QCOW2_COMPRESSED) {
		struct cow_compressed c = cow_compressed_decode(raw, g->cluster_bits);
		uint64_t first = c.off >> g->cluster_bits,
			 last = (c.off + c.bytes - 1) >> g->cluster_bits;
		return (struct refs){ first, last - first + 1 };
	}
	uint64_t host = raw & QCOW2_OFFSET_MASK;
	return (struct refs){ host >> g->cluster_bits, host != 0 };
}

static int count(struct cow_delta *d, struct refs refs, int by)
{
	int ret = 0;
	for (uint64_t i = 0; i < refs.nr && !ret; i++)
		ret = cow_delta_add(d, refs.first + i, by);
	return ret;
}

int cow_shadow_count(struct cow_delta *d, const struct cow_geometry *g, const uint8_t *before,
		     const uint8_t *now, struct cow_shadow_part part, int by)
{
	int ret = 0;
	stand_on_part(g, part);
	for (uint32_t at = part.from; at < part.to && !ret; at += g->entry_bytes) {
		struct refs new = entry_refs(g, cow_load64_be(now + at)), old = { 0 };
		if (before)
			old = entry_refs(g, cow_load64_be(before + at));
		if (new.nr == old.nr && (!new.nr || new.first == old.first))
			continue;
		ret = count(d, new, by);
		if (!ret)
			ret = count(d, old, -by);
	}
	return ret;
}

/* ---- COPIED ---- */

bool cow_shadow_has_copied(const struct cow_geometry *g, const uint8_t *table)
{
	for (uint32_t at = 0; at < g->cluster_bytes; at += g->entry_bytes)
		if (cow_load64_be(table + at) & QCOW2_COPIED)
			return true;
	return false;
}

void cow_shadow_clear_copied(const struct cow_geometry *g, uint8_t *table,
			     struct cow_shadow_part part)
{
	stand_on_part(g, part);
	for (uint32_t at = part.from; at < part.to; at += g->entry_bytes)
		cow_store64_be(table + at, cow_load64_be(table + at) & ~QCOW2_COPIED);
}

bool cow_shadow_set_copied(const struct cow_geometry *g, const struct cow_delta *d, uint8_t *table,
			   struct cow_shadow_part part)
{
	bool changed = false;
	stand_on_part(g, part);
	for (uint32_t at = part.from; at < part.to; at += g->entry_bytes) {
		uint64_t raw = cow_load64_be(table + at), host = raw & QCOW2_OFFSET_MASK;
		if ((raw & (QCOW2_COMPRESSED | QCOW2_COPIED)) || !host ||
		    !cow_delta_is_one(d, host >> g->cluster_bits))
			continue;
		cow_store64_be(table + at, raw | QCOW2_COPIED);
		changed = true;
	}
	return changed;
}

/* ---- refcounts ---- */

static enum cow_shadow_result change_one(struct cow_delta *d, const struct cow_geometry *g,
					 uint8_t *block, uint64_t idx, uint64_t cluster)
{
	uint64_t old = cow_refcount_get(block, g->refcount_order, idx);
	int64_t by = cow_delta_get(d, cluster);
	if (!old || (by < 0 && old < (uint64_t)-by))
		return COW_SHADOW_LOW;
	if (by > 0 && (uint64_t)by > g->max_refcount - old)
		return COW_SHADOW_HIGH;
	uint64_t now = old + (uint64_t)by;
	cow_refcount_set(block, g->refcount_order, idx, now ? now : 1);
	if (by > 0)
		return COW_SHADOW_OK;
	return cow_delta_mark_one(d, cluster, now == 1) ? COW_SHADOW_NO_MEMORY : COW_SHADOW_OK;
}

enum cow_shadow_result cow_shadow_refcounts(struct cow_delta *d, const struct cow_geometry *g,
					    uint64_t first, uint8_t *block,
					    struct cow_shadow_part part, uint64_t *cluster)
{
	uint64_t from = first + ((uint64_t)part.from * 8 >> g->refcount_order);
	uint64_t end = first + ((uint64_t)part.to * 8 >> g->refcount_order);
	enum cow_shadow_result result = COW_SHADOW_OK;
	cow_assert(first % g->refs_per_block == 0);
	cow_assert(part.from <= part.to && part.to <= g->cluster_bytes);
	for (*cluster = cow_delta_next(d, from, end); *cluster < end;
	     *cluster = cow_delta_next(d, *cluster + 1, end)) {
		result = change_one(d, g, block, *cluster - first, *cluster);
		if (result != COW_SHADOW_OK)
			break;
	}
	return result;
}
