/* SPDX-License-Identifier: MIT */
/* See map.h. */
#include "engine/format/map.h"

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/math.h"

struct cow_l2_entry cow_entry_get(const struct cow_geometry *g, const uint8_t *slice, uint32_t idx)
{
	const uint8_t *p = slice + (size_t)idx * g->entry_bytes;
	return (struct cow_l2_entry){ .raw = cow_load64_be(p),
				      .subs = g->extended_l2 ? cow_load64_be(p + 8) : 0 };
}

/* Who dies between two stores (meta/outlive.h) would leave half an entry: one store of 16 bytes. */
static void store_both(uint8_t *p, struct cow_l2_entry entry)
{
	typedef uint64_t both __attribute__((vector_size(16), aligned(1)));
	*(volatile both *)(void *)p = (both){ htobe64(entry.raw), htobe64(entry.subs) };
}

void cow_entry_set(const struct cow_geometry *g, uint8_t *slice, uint32_t idx,
		   struct cow_l2_entry entry)
{
	uint8_t *p = slice + (size_t)idx * g->entry_bytes;
	if (g->extended_l2)
		store_both(p, entry);
	else
		cow_store64_be(p, entry.raw);
}

static bool has_host(const struct cow_geometry *g, uint64_t raw)
{
	return (raw & QCOW2_OFFSET_MASK) || (g->data_file && (raw & QCOW2_COPIED));
}

static const char *subs_fault(const struct cow_geometry *g, struct cow_l2_entry entry)
{
	if ((entry.subs >> 32) & entry.subs)
		return "L2 entry has a subcluster that is both allocated and zero";
	if (!has_host(g, entry.raw) && (entry.subs & COW_SUBS_ALLOCATED))
		return "L2 entry has an allocated subcluster without a cluster";
	return NULL;
}

const char *cow_entry_fault(const struct cow_geometry *g, struct cow_l2_entry entry)
{
	uint64_t raw = entry.raw, off = raw & QCOW2_OFFSET_MASK;
	if (raw & QCOW2_COMPRESSED) {
		if (raw & QCOW2_COPIED)
			return "L2 entry is compressed and has the COPIED flag";
		if (g->data_file)
			return "L2 entry is compressed in an image with an external data file";
		return entry.subs ? "L2 entry is compressed and has subclusters" : NULL;
	}
	if (raw & (QCOW2_L2_RESERVED | (g->extended_l2 ? QCOW2_ZERO : 0)))
		return "L2 entry has reserved bits set";
	if ((raw & QCOW2_ZERO) && g->version < 3)
		return "L2 entry has the zero flag in a version 2 image";
	if (off & (g->cluster_bytes - 1))
		return "L2 entry's cluster offset is not cluster-aligned";
	if (!off && (raw & QCOW2_COPIED) && !g->data_file)
		return "L2 entry has the COPIED flag without a cluster";
	return g->extended_l2 ? subs_fault(g, entry) : NULL;
}

static enum cow_kind plain_kind(const struct cow_entry *e)
{
	if (e->raw & QCOW2_ZERO)
		return e->has_host ? COW_ZERO_ALLOC : COW_ZERO_PLAIN;
	return e->has_host ? COW_NORMAL : COW_UNALLOCATED;
}

static enum cow_kind sub_kind(const struct cow_entry *e, uint32_t sub)
{
	if (e->subs >> (32 + sub) & 1)
		return e->has_host ? COW_ZERO_ALLOC : COW_ZERO_PLAIN;
	return e->subs >> sub & 1 ? COW_NORMAL : COW_UNALLOCATED;
}

struct cow_entry cow_entry_decode(const struct cow_geometry *g, struct cow_l2_entry entry,
				  uint32_t sub)
{
	struct cow_entry e = { .raw = entry.raw, .subs = entry.subs };
	if (!entry.raw && !entry.subs) {
		e.kind = COW_UNALLOCATED;
		return e;
	}
	if (cow_entry_fault(g, entry)) {
		e.kind = COW_BAD;
		return e;
	}
	if (entry.raw & QCOW2_COMPRESSED) {
		e.kind = COW_COMPRESSED;
		return e;
	}
	e.copied = entry.raw & QCOW2_COPIED;
	e.host.v = entry.raw & QCOW2_OFFSET_MASK;
	e.has_host = has_host(g, entry.raw);
	e.kind = g->extended_l2 ? sub_kind(&e, sub) : plain_kind(&e);
	return e;
}

/* clusters: how many clusters e's lies behind first's. */
static bool continues(const struct cow_geometry *g, const struct cow_entry *first,
		      const struct cow_entry *e, uint32_t clusters)
{
	if (e->kind != first->kind || e->copied != first->copied)
		return false;
	if (first->kind == COW_COMPRESSED || first->kind == COW_BAD)
		return false;
	if (!first->has_host || !e->has_host)
		return first->has_host == e->has_host;
	return e->host.v == first->host.v + ((uint64_t)clusters << g->cluster_bits);
}

/* Bytes of one cluster, from its offset `in` on, whose subclusters are of e's kind. */
static uint64_t same_in_cluster(const struct cow_geometry *g, const struct cow_entry *e,
				uint64_t in)
{
	if (!g->extended_l2 || e->kind == COW_COMPRESSED || e->kind == COW_BAD)
		return g->cluster_bytes - in;
	uint32_t sub = (uint32_t)(in >> g->sub_bits) + 1;
	while (sub < 32 && sub_kind(e, sub) == e->kind)
		sub++;
	return ((uint64_t)sub << g->sub_bits) - in;
}

struct cow_run cow_map_run(const struct cow_geometry *g, const uint8_t *slice, struct cow_goff off,
			   uint64_t bytes)
{
	uint32_t idx = cow_l2_slice_idx(g, off), clusters = 0;
	uint64_t in = cow_in_cluster(g, off.v);
	struct cow_run run = {
		.first = cow_entry_decode(g, cow_entry_get(g, slice, idx),
					  (uint32_t)(in >> g->sub_bits)),
	};
	const struct cow_entry *first = &run.first;
	run.bytes = same_in_cluster(g, first, in);
	uint64_t to_cluster_end = g->cluster_bytes - in;
	while (run.bytes < bytes && run.bytes == to_cluster_end &&
	       idx + clusters + 1 < g->slice_entries) {
		clusters++;
		struct cow_entry e =
			cow_entry_decode(g, cow_entry_get(g, slice, idx + clusters), 0);
		if (!continues(g, first, &e, clusters))
			break;
		run.bytes += same_in_cluster(g, &e, 0);
		to_cluster_end += g->cluster_bytes;
	}
	run.bytes = cow_min(run.bytes, bytes);
	return run;
}

uint64_t cow_entry_subs(const struct cow_geometry *g, uint64_t off, uint64_t bytes)
{
	uint64_t in = cow_in_cluster(g, off);
	uint32_t first = (uint32_t)(in >> g->sub_bits),
		 last = (uint32_t)((in + bytes - 1) >> g->sub_bits);
	return ((1ull << (last - first + 1)) - 1) << first;
}

const char *cow_map_l1_fault(const struct cow_geometry *g, uint64_t raw)
{
	if (raw & COW_L1_PAST_END)
		return "L1 entry points to an L2 table past the end of the file";
	if (raw & QCOW2_L1_RESERVED)
		return "L1 entry has reserved bits set";
	if ((raw & QCOW2_OFFSET_MASK) & (g->cluster_bytes - 1))
		return "L1 entry's table offset is not cluster-aligned";
	if (!(raw & QCOW2_OFFSET_MASK) && raw)
		return "L1 entry has the COPIED flag without a table";
	return NULL;
}

/*
 * ---- compressed L2 entries: low x bits offset, then the number of additional sectors up to bit 61 ----
 */

static uint32_t compressed_offset_bits(uint32_t cluster_bits)
{
	return 62 - (cluster_bits - 8);
}

struct cow_compressed cow_compressed_decode(uint64_t entry, uint32_t cluster_bits)
{
	uint32_t x = compressed_offset_bits(cluster_bits);
	uint64_t off = entry & ((1ull << x) - 1);
	uint64_t more_sectors = (entry >> x) & ((1ull << (62 - x)) - 1);
	return (struct cow_compressed){
		.off = off,
		.bytes = (uint32_t)((more_sectors + 1) * 512 - (off & 511)),
	};
}

uint64_t cow_compressed_encode(uint64_t off, uint32_t bytes, uint32_t cluster_bits)
{
	uint32_t x = compressed_offset_bits(cluster_bits);
	uint64_t more_sectors = ((off + bytes - 1) >> 9) - (off >> 9);
	cow_assert(bytes > 0 && off < (1ull << x) && more_sectors < (1ull << (62 - x)));
	return QCOW2_COMPRESSED | (more_sectors << x) | off;
}
