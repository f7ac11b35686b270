/* SPDX-License-Identifier: MIT */
#include "tests/interop/workload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/request/kind.h"

#define SECTOR 512ull

uint64_t rng_next(struct rng *rng)
{
	uint64_t z = (rng->state += 0x9e3779b97f4a7c15ull);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

uint64_t rng_below(struct rng *rng, uint64_t bound)
{
	return rng_next(rng) % bound;
}

static bool percent(struct rng *rng, unsigned chance)
{
	return rng_below(rng, 100) < chance;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

void workload_init(struct workload *w, const struct cow_image_geometry *geometry, struct rng *rng)
{
	static const unsigned mix[] = { 30, 45, 3, 11, 11 };
	memset(w, 0, sizeof(*w));
	w->size_bytes = geometry->size_bytes;
	w->cluster_bytes = geometry->cluster_bytes;
	w->max_bytes = min_u64(COW_MAX_OP_BYTES, w->size_bytes);
	w->max_long_bytes = min_u64(4u << 20, w->size_bytes);
	w->hot_bytes = min_u64(8ull * w->cluster_bytes, w->size_bytes);
	w->hot_off = rng_below(rng, (w->size_bytes - w->hot_bytes) / SECTOR + 1) * SECTOR;
	w->zero_percent = 10;
	memcpy(w->weight, mix, sizeof(mix));
}

bool workload_parse_mix(struct workload *w, const char *text)
{
	static const char *const names[] = { "read", "write", "flush", "discard", "zero" };
	memset(w->weight, 0, sizeof(w->weight));
	unsigned sum = 0;
	while (*text) {
		size_t len = strcspn(text, "=");
		unsigned kind = 0;
		while (kind < 5 && (strlen(names[kind]) != len || strncmp(names[kind], text, len)))
			kind++;
		if (kind == 5 || text[len] != '=')
			return false;
		char *end;
		w->weight[kind] = (unsigned)strtoul(text + len + 1, &end, 10);
		sum += w->weight[kind];
		text = *end == ',' ? end + 1 : end;
		if (text == end && *end)
			return false;
	}
	return sum > 0;
}

static enum cow_op_kind pick_kind(const struct workload *w, struct rng *rng)
{
	unsigned sum = 0;
	for (unsigned i = 0; i < 5; i++)
		sum += w->weight[i];
	unsigned dice = (unsigned)rng_below(rng, sum), kind = 0;
	while (dice >= w->weight[kind])
		dice -= w->weight[kind++];
	return (enum cow_op_kind)kind;
}

/* Small ones often, long ones sometimes: each power of two is as likely as the next. */
static uint64_t pick_length(struct rng *rng, uint64_t max)
{
	unsigned bits = 0;
	while (max >> bits > SECTOR)
		bits++;
	uint64_t top = SECTOR << rng_below(rng, bits + 1);
	uint64_t length = percent(rng, 50) ? top : (rng_below(rng, top / SECTOR) + 1) * SECTOR;
	return min_u64(length, max / SECTOR * SECTOR);
}

static uint64_t pick_offset(const struct workload *w, struct rng *rng, uint64_t length)
{
	uint64_t room = w->size_bytes - length;
	if (percent(rng, 50))
		return min_u64(w->hot_off + rng_below(rng, w->hot_bytes / SECTOR) * SECTOR, room);
	if (percent(rng, 5)) /* the last clusters, partial ones included */
		return room - min_u64(room, rng_below(rng, 2 * w->cluster_bytes / SECTOR) * SECTOR);
	return rng_below(rng, room / SECTOR + 1) * SECTOR;
}

static void align_to_clusters(const struct workload *w, struct request *req)
{
	uint64_t mask = w->cluster_bytes - 1;
	req->offset &= ~mask;
	req->length = min_u64((req->length + mask) & ~mask, w->size_bytes - req->offset);
}

void workload_next(const struct workload *w, struct rng *rng, struct request *req)
{
	memset(req, 0, sizeof(*req));
	req->kind = pick_kind(w, rng);
	if (req->kind == COW_OP_FLUSH)
		return;
	bool is_long = req->kind == COW_OP_DISCARD || req->kind == COW_OP_WRITE_ZEROES;
	uint64_t max = is_long ? w->max_long_bytes : w->max_bytes;
	req->length = pick_length(rng, max);
	req->offset = pick_offset(w, rng, req->length);
	if (percent(rng, is_long ? 60 : 25))
		align_to_clusters(w, req);
	req->length = min_u64(req->length, max);
	if ((req->kind == COW_OP_WRITE || req->kind == COW_OP_WRITE_ZEROES) && percent(rng, 4))
		req->flags |= COW_OP_FUA;
	if (req->kind == COW_OP_WRITE_ZEROES && percent(rng, 30))
		req->flags |= COW_OP_NOUNMAP;
	req->zeros = req->kind == COW_OP_WRITE && percent(rng, w->zero_percent);
}
