/* SPDX-License-Identifier: MIT */
/* See overlap.h. In this order: the filter; the answer; at open. */
#include "engine/meta/overlap.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/meta/meta.h"
#include "engine/format/map.h"

/* ---- the filter ---- */

static uint64_t bit_of(const struct cow_overlap_filter *f, uint64_t cluster, unsigned hash)
{
	static const uint64_t multipliers[2] = { 0x9e3779b97f4a7c15ull, 0xc2b2ae3d27d4eb4full };
	return ((cluster + 1) * multipliers[hash] >> 20) & f->mask;
}

void cow_overlap_add(struct cow_meta *meta, uint64_t off)
{
	struct cow_overlap_filter *f = &meta->overlap;
	for (unsigned h = 0; h < 2; h++) {
		uint64_t bit = bit_of(f, off >> meta->core->g.cluster_bits, h);
		atomic_fetch_or_explicit(&f->words[bit / 64], 1ull << (bit % 64),
					 memory_order_relaxed);
	}
}

static bool perhaps(struct cow_meta *meta, uint64_t cluster)
{
	struct cow_overlap_filter *f = &meta->overlap;
	for (unsigned h = 0; h < 2; h++) {
		uint64_t bit = bit_of(f, cluster, h);
		uint64_t word = atomic_load_explicit(&f->words[bit / 64], memory_order_relaxed);
		if (!(word >> (bit % 64) & 1))
			return false;
	}
	return true;
}

/* ---- the answer ---- */

static bool meets(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return b_bytes && a < b + b_bytes && b < a + a_bytes;
}

static const char *fixed(struct cow_meta *meta, uint64_t off, uint64_t bytes)
{
	if (off < meta->core->g.cluster_bytes)
		return "the header";
	if (meets(off, bytes, meta->l1.off, meta->l1.nr * 8))
		return "the active L1 table";
	if (meets(off, bytes, meta->reftable.off, meta->reftable.nr * 8))
		return "the refcount table";
	if (meets(off, bytes, cow_core_snapshots_off(meta->core), meta->core->snapshots_bytes))
		return "the snapshot table";
	if (meets(off, bytes, meta->core->ext.crypto_off, meta->core->ext.crypto_bytes))
		return "the encryption header";
	return NULL;
}

static bool in_table(const struct cow_table *table, uint64_t off, uint32_t cluster_bytes)
{
	uint64_t nr = table->nr;
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t at = cow_table_get(table, i) & QCOW2_OFFSET_MASK;
		if (at && meets(off, cluster_bytes, at, cluster_bytes))
			return true;
	}
	return false;
}

const char *cow_overlap(struct cow_meta *meta, uint64_t off, uint64_t bytes)
{
	const char *what = fixed(meta, off, bytes);
	unsigned bits = meta->core->g.cluster_bits;
	uint64_t end = (off + bytes + meta->core->g.cluster_bytes - 1) >> bits;
	for (uint64_t cluster = off >> bits; !what && cluster < end; cluster++) {
		if (!perhaps(meta, cluster))
			continue;
		if (in_table(&meta->l1, cluster << bits, meta->core->g.cluster_bytes))
			what = "an active L2 table";
		else if (in_table(&meta->reftable, cluster << bits, meta->core->g.cluster_bytes))
			what = "a refcount block";
	}
	return what;
}

/* ---- at open ---- */

static int u64_cmp(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* Tables that we change in place: refcount blocks, and L2 tables with COPIED. */
static uint64_t list_tables(struct cow_meta *meta, uint64_t *out)
{
	uint64_t nr = 0;
	for (uint64_t i = 0; i < meta->reftable.nr; i++) {
		uint64_t entry = cow_table_get(&meta->reftable, i);
		if (entry & QCOW2_OFFSET_MASK)
			out[nr++] = entry & QCOW2_OFFSET_MASK;
	}
	for (uint64_t i = 0; i < meta->l1.nr; i++) {
		uint64_t entry = cow_table_get(&meta->l1, i);
		if (entry & QCOW2_OFFSET_MASK)
			cow_overlap_add(meta, entry & QCOW2_OFFSET_MASK);
		if ((entry & QCOW2_COPIED) && !cow_map_l1_fault(&meta->core->g, entry))
			out[nr++] = entry & QCOW2_OFFSET_MASK;
	}
	return nr;
}

static int verify(struct cow_meta *meta, uint64_t *tables, uint64_t nr, struct cow_error *err)
{
	qsort(tables, nr, sizeof(*tables), u64_cmp);
	for (uint64_t i = 0; i < nr; i++) {
		const char *what = fixed(meta, tables[i], meta->core->g.cluster_bytes);
		if (what)
			return cow_error_set(
				err, -EINVAL,
				"a metadata table at offset %llu overlaps %s: repair it with "
				"cowblk check --repair all, or attach it --read-only",
				(unsigned long long)tables[i], what);
		if (i && tables[i] == tables[i - 1])
			return cow_error_set(
				err, -EINVAL,
				"two metadata tables share offset %llu: repair the image with "
				"cowblk check --repair all, or attach it --read-only",
				(unsigned long long)tables[i]);
		cow_overlap_add(meta, tables[i]);
	}
	return 0;
}

int cow_overlap_init(struct cow_meta *meta, struct cow_error *err)
{
	uint64_t capacity = meta->l1.nr + meta->reftable.nr, bits = 1u << 16;
	while (bits < capacity * 16)
		bits *= 2;
	meta->overlap.mask = bits - 1;
	meta->overlap.words = calloc(bits / 64, sizeof(uint64_t));
	uint64_t *tables = calloc(capacity + 1, sizeof(*tables));
	int ret = meta->overlap.words && tables ? 0 : -ENOMEM;
	if (!ret)
		ret = verify(meta, tables, list_tables(meta, tables), err);
	free(tables);
	return ret;
}

void cow_overlap_fini(struct cow_meta *meta)
{
	free((void *)meta->overlap.words);
	meta->overlap.words = NULL;
}
