/* SPDX-License-Identifier: MIT */
#include "engine/meta/written.h"

#include <errno.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/pages.h"

#define MAX_PART_BITS 6u /* 64 parts */

int cow_written_init(struct cow_written *w, unsigned cluster_bits, unsigned slice_bits,
		     uint64_t nr_clusters)
{
	memset(w, 0, sizeof(*w));
	w->cluster_bits = cluster_bits;
	w->part_bits = slice_bits;
	if (cluster_bits - slice_bits > MAX_PART_BITS)
		w->part_bits = cluster_bits - MAX_PART_BITS;
	w->nr = 1024;
	while (w->nr / 4 * 3 < nr_clusters)
		w->nr *= 2;
	w->entries = cow_pages_reserve(w->nr * sizeof(*w->entries));
	return w->entries ? 0 : -ENOMEM;
}

void cow_written_fini(struct cow_written *w)
{
	cow_pages_free(w->entries, w->nr * sizeof(*w->entries));
	w->entries = NULL;
}

static struct cow_written_entry *first(const struct cow_written *w, uint64_t cluster)
{
	return &w->entries[(cluster * 0x9e3779b97f4a7c15ull >> 20) & (w->nr - 1)];
}

static struct cow_written_entry *next(const struct cow_written *w, struct cow_written_entry *e)
{
	return ++e == w->entries + w->nr ? w->entries : e;
}

static struct cow_written_entry *find(const struct cow_written *w, uint64_t cluster)
{
	struct cow_written_entry *e = first(w, cluster);
	for (;; e = next(w, e)) {
		uint64_t there = atomic_load(&e->cluster);
		if (!there || there == cluster + 1)
			return there ? e : NULL;
	}
}

/* A quarter stays free, so that find() ends. */
static struct cow_written_entry *enter(struct cow_written *w, uint64_t cluster)
{
	struct cow_written_entry *e = first(w, cluster);
	for (;; e = next(w, e)) {
		uint64_t there = atomic_load(&e->cluster);
		if (there == cluster + 1)
			return e;
		if (there)
			continue;
		if (atomic_fetch_add(&w->used, 1) >= w->nr / 4 * 3)
			return NULL;
		if (atomic_compare_exchange_strong(&e->cluster, &there, cluster + 1) ||
		    there == cluster + 1)
			return e;
	}
}

void cow_written_note(struct cow_written *w, uint64_t off, uint64_t bytes)
{
	uint64_t mask = (1ull << w->cluster_bits) - 1;
	cow_assert(bytes && (off & mask) + bytes <= mask + 1);
	unsigned from = (unsigned)((off & mask) >> w->part_bits);
	unsigned to = (unsigned)(((off & mask) + bytes - 1) >> w->part_bits);
	struct cow_written_entry *e = enter(w, off >> w->cluster_bits);
	if (e)
		atomic_fetch_or(&e->parts, UINT64_MAX >> (63 - (to - from)) << from);
	else
		atomic_store(&w->full, true);
}

bool cow_written_test(const struct cow_written *w, uint64_t cluster)
{
	const struct cow_written_entry *e = find(w, cluster);
	return atomic_load(&w->full) || (e && atomic_load(&e->parts));
}

uint64_t cow_written_take(struct cow_written *w, uint64_t cluster)
{
	struct cow_written_entry *e = find(w, cluster);
	uint64_t parts = e ? atomic_exchange(&e->parts, 0) : 0;
	return atomic_load(&w->full) ? cow_written_all(w) : parts;
}
