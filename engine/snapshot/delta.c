/* SPDX-License-Identifier: MIT */
/* See delta.h: memory, then numbers, then marks. */
#include "engine/snapshot/delta.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"

#define CODE_BYTES (COW_DELTA_GROUP / 4)
#define ONE_BYTES (COW_DELTA_GROUP / 8)
#define WIDE_BYTES (COW_DELTA_GROUP * sizeof(int32_t))
/* More memory than this for the groups' list means a cluster that no file has. */
#define MAX_GROUPS (1ull << 24)

void cow_delta_init(struct cow_delta *d)
{
	memset(d, 0, sizeof(*d));
}

void cow_delta_fini(struct cow_delta *d)
{
	for (uint64_t i = 0; i < d->nr; i++) {
		free(d->groups[i].codes);
		free(d->groups[i].wide);
		free(d->groups[i].one);
	}
	free(d->groups);
	memset(d, 0, sizeof(*d));
}

static int need_group(struct cow_delta *d, uint64_t cluster, struct cow_delta_group **out)
{
	uint64_t idx = cluster / COW_DELTA_GROUP;
	if (idx >= MAX_GROUPS || (d->nr_clusters && cluster >= d->nr_clusters))
		return -EOVERFLOW;
	if (idx >= d->nr) {
		uint64_t nr = idx + 1 + idx / 8;
		struct cow_delta_group *more = reallocarray(d->groups, nr, sizeof(*more));
		if (!more)
			return -ENOMEM;
		memset(more + d->nr, 0, (nr - d->nr) * sizeof(*more));
		d->bytes += (nr - d->nr) * sizeof(*more);
		d->groups = more;
		d->nr = nr;
	}
	*out = &d->groups[idx];
	return 0;
}

static const struct cow_delta_group *find_group(const struct cow_delta *d, uint64_t cluster)
{
	uint64_t idx = cluster / COW_DELTA_GROUP;
	return idx < d->nr ? &d->groups[idx] : NULL;
}

/* ---- numbers ---- */

static int decode(const uint8_t *codes, unsigned i)
{
	static const int8_t values[4] = { 0, 1, 2, -1 };
	return values[codes[i / 4] >> (i % 4 * 2) & 3];
}

static void encode(uint8_t *codes, unsigned i, int value)
{
	cow_assert(value >= -1 && value <= 2);
	unsigned shift = i % 4 * 2, code = value < 0 ? 3 : (unsigned)value;
	codes[i / 4] = (uint8_t)((codes[i / 4] & ~(3u << shift)) | code << shift);
}

static int64_t get(const struct cow_delta_group *g, unsigned i)
{
	return g->wide ? g->wide[i] : g->codes ? decode(g->codes, i) : 0;
}

static int widen(struct cow_delta *d, struct cow_delta_group *g)
{
	cow_assert(!g->wide);
	g->wide = malloc(WIDE_BYTES);
	if (!g->wide)
		return -ENOMEM;
	for (unsigned i = 0; i < COW_DELTA_GROUP; i++)
		g->wide[i] = g->codes ? decode(g->codes, i) : 0;
	d->bytes += WIDE_BYTES;
	d->bytes -= g->codes ? CODE_BYTES : 0;
	free(g->codes);
	g->codes = NULL;
	return 0;
}

static int set(struct cow_delta *d, struct cow_delta_group *g, unsigned i, int64_t value)
{
	if (value > INT32_MAX || value < INT32_MIN)
		return -EOVERFLOW;
	if (!g->wide && (value < -1 || value > 2)) {
		int ret = widen(d, g);
		if (ret)
			return ret;
	}
	if (!g->wide && !g->codes) {
		g->codes = calloc(1, CODE_BYTES);
		if (!g->codes)
			return -ENOMEM;
		d->bytes += CODE_BYTES;
	}
	if (g->wide)
		g->wide[i] = (int32_t)value;
	else
		encode(g->codes, i, (int)value);
	return 0;
}

int cow_delta_add(struct cow_delta *d, uint64_t cluster, int by)
{
	struct cow_delta_group *g;
	unsigned i = cluster % COW_DELTA_GROUP;
	int ret = need_group(d, cluster, &g);
	if (!ret)
		ret = set(d, g, i, get(g, i) + by);
	if (!ret && d->changed)
		d->changed(d->ctx, cluster);
	return ret;
}

int64_t cow_delta_get(const struct cow_delta *d, uint64_t cluster)
{
	const struct cow_delta_group *g = find_group(d, cluster);
	return g ? get(g, cluster % COW_DELTA_GROUP) : 0;
}

uint64_t cow_delta_next(const struct cow_delta *d, uint64_t cluster, uint64_t end)
{
	cow_assert(cluster <= end);
	while (cluster < end) {
		const struct cow_delta_group *g = find_group(d, cluster);
		unsigned i = cluster % COW_DELTA_GROUP;
		if (!g || (!g->codes && !g->wide))
			cluster += COW_DELTA_GROUP - i;
		else if (g->codes && i % 4 == 0 && !g->codes[i / 4])
			cluster += 4;
		else if (get(g, i))
			return cluster;
		else
			cluster++;
	}
	return end;
}

/* ---- marks ---- */

int cow_delta_mark_one(struct cow_delta *d, uint64_t cluster, bool one)
{
	struct cow_delta_group *g;
	unsigned i = cluster % COW_DELTA_GROUP;
	int ret = need_group(d, cluster, &g);
	if (ret)
		return ret;
	if (cow_delta_is_one(d, cluster) == one)
		return 0;
	if (!g->one) {
		g->one = calloc(1, ONE_BYTES);
		if (!g->one)
			return -ENOMEM;
		d->bytes += ONE_BYTES;
	}
	g->one[i / 8] ^= (uint8_t)(1u << i % 8);
	cow_assert(cow_delta_is_one(d, cluster) == one);
	return 0;
}

bool cow_delta_is_one(const struct cow_delta *d, uint64_t cluster)
{
	const struct cow_delta_group *g = find_group(d, cluster);
	unsigned i = cluster % COW_DELTA_GROUP;
	return g && g->one && (g->one[i / 8] & 1u << i % 8);
}
