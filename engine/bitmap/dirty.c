/* SPDX-License-Identifier: MIT */
/* See dirty.h. */
#include "engine/bitmap/dirty.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/format/bitmap_directory.h"

/* Each is marked with each write, and each takes two clusters when it is stored. */
#define MAX_TRACKED 1024u

/*
 * Looked at after each: the sum of so many that a hostile directory names does not fit into 64
 * bits.
 */
int cow_dirty_budget_take(struct cow_dirty_budget *budget, uint64_t size_bytes,
			  unsigned granularity_bits, struct cow_error *err)
{
	if (++budget->nr > MAX_TRACKED)
		return cow_error_set(err, -EFBIG, "more than %u bitmaps are enabled", MAX_TRACKED);
	budget->bytes += cow_bitmap_data_bytes(size_bytes, granularity_bits);
	if (budget->bytes > COW_DIRTY_MAX_BYTES)
		return cow_error_set(err, -EFBIG,
				     "the enabled bitmaps are larger than 512 MiB together");
	return 0;
}

static uint64_t nr_words(const struct cow_dirty *d)
{
	return d->nr_bits / 64 + !!(d->nr_bits % 64);
}

int cow_dirty_init(struct cow_dirty *d, uint64_t size_bytes, unsigned granularity_bits)
{
	uint64_t mask = (1ull << granularity_bits) - 1;
	memset(d, 0, sizeof(*d));
	if (cow_bitmap_data_bytes(size_bytes, granularity_bits) > COW_DIRTY_MAX_BYTES)
		return -EFBIG;
	d->size_bytes = size_bytes;
	d->granularity_bits = granularity_bits;
	d->nr_bits = (size_bytes >> granularity_bits) + !!(size_bytes & mask);
	d->words = calloc(nr_words(d) + 1, sizeof(*d->words));
	return d->words ? 0 : -ENOMEM;
}

void cow_dirty_fini(struct cow_dirty *d)
{
	if (d->part.memory) {
		cow_shared_give_back(&d->part, 0, d->part.bytes);
		cow_shared_unmap(&d->part);
	} else {
		free((void *)d->words);
	}
	d->words = NULL;
}

uint64_t cow_dirty_words_bytes(const struct cow_dirty *d)
{
	return nr_words(d) * sizeof(*d->words);
}

int cow_dirty_share(struct cow_dirty *d, struct cow_shared *shared)
{
	cow_assert(shared && !d->part.memory);
	int ret = cow_shared_take(shared, cow_dirty_words_bytes(d) + sizeof(*d->words), &d->part);
	if (ret)
		return ret;
	_Atomic uint64_t *words = d->part.memory;
	for (uint64_t i = 0; i < nr_words(d); i++)
		if (d->words[i])
			atomic_store_explicit(&words[i], d->words[i], memory_order_relaxed);
	free((void *)d->words);
	d->words = words;
	return 0;
}

static uint64_t word_at(const struct cow_dirty *d, uint64_t idx)
{
	return le64toh(atomic_load_explicit(&d->words[idx], memory_order_relaxed));
}

/* Most writes hit what is dirty already: those only look. */
static void set_in_word(struct cow_dirty *d, uint64_t idx, uint64_t mask)
{
	uint64_t le = htole64(mask);
	if ((atomic_load_explicit(&d->words[idx], memory_order_relaxed) & le) == le)
		return;
	atomic_fetch_or_explicit(&d->words[idx], le, memory_order_relaxed);
	atomic_store_explicit(&d->changed, true, memory_order_relaxed);
}

void cow_dirty_set(struct cow_dirty *d, uint64_t off, uint64_t bytes)
{
	if (!bytes || off >= d->size_bytes)
		return;
	if (bytes > d->size_bytes - off)
		bytes = d->size_bytes - off;
	uint64_t first = off >> d->granularity_bits,
		 last = (off + bytes - 1) >> d->granularity_bits;
	cow_assert(first <= last && last < d->nr_bits);
	for (uint64_t idx = first / 64; idx <= last / 64; idx++) {
		uint64_t mask = ~0ull;
		if (idx == first / 64)
			mask &= ~0ull << (first % 64);
		if (idx == last / 64)
			mask &= ~0ull >> (63 - last % 64);
		set_in_word(d, idx, mask);
	}
}

void cow_dirty_merge(struct cow_dirty *d, const struct cow_dirty *from)
{
	uint64_t off = 0, bytes;
	cow_assert(d->size_bytes == from->size_bytes);
	for (; cow_dirty_next(from, &off, &bytes); off += bytes)
		cow_dirty_set(d, off, bytes);
}

/* The first bit at or after `bit` that differs from flip's; nr_bits: none. */
static uint64_t find_differing(const struct cow_dirty *d, uint64_t bit, uint64_t flip)
{
	while (bit < d->nr_bits) {
		uint64_t word = (word_at(d, bit / 64) ^ flip) & ~0ull << (bit % 64);
		if (word) {
			bit = bit / 64 * 64 + (unsigned)__builtin_ctzll(word);
			break;
		}
		bit = (bit / 64 + 1) * 64;
	}
	return bit < d->nr_bits ? bit : d->nr_bits;
}

static uint64_t find_set(const struct cow_dirty *d, uint64_t bit)
{
	return find_differing(d, bit, 0);
}

static uint64_t find_clear(const struct cow_dirty *d, uint64_t bit)
{
	return find_differing(d, bit, UINT64_MAX);
}

bool cow_dirty_next(const struct cow_dirty *d, uint64_t *off, uint64_t *bytes)
{
	uint64_t first = find_set(d, *off >> d->granularity_bits);
	if (*off >= d->size_bytes || first == d->nr_bits)
		return false;
	uint64_t end = find_clear(d, first);
	uint64_t start = first << d->granularity_bits;
	*off = start > *off ? start : *off;
	*bytes = (end == d->nr_bits ? d->size_bytes : end << d->granularity_bits) - *off;
	cow_assert(*bytes && *bytes <= d->size_bytes - *off);
	return true;
}

bool cow_dirty_store(const struct cow_dirty *d, uint64_t at, uint8_t *to, uint64_t bytes)
{
	uint64_t any = 0, all = nr_words(d) * 8;
	cow_assert(at % 8 == 0 && bytes % 8 == 0);
	memset(to, 0, bytes);
	for (uint64_t i = at; i < at + bytes && i < all; i += 8) {
		uint64_t le = atomic_load_explicit(&d->words[i / 8], memory_order_relaxed);
		any |= le;
		memcpy(to + (i - at), &le, 8);
	}
	return any;
}

void cow_dirty_load(struct cow_dirty *d, uint64_t at, const uint8_t *from, uint64_t bytes)
{
	uint64_t all = nr_words(d) * 8;
	cow_assert(at % 8 == 0 && bytes % 8 == 0);
	for (uint64_t i = at; i < at + bytes && i < all; i += 8) {
		uint64_t le;
		memcpy(&le, from + (i - at), 8);
		if (le)
			atomic_store_explicit(&d->words[i / 8], le, memory_order_relaxed);
	}
	if (d->nr_bits % 64 && at + bytes >= all) {
		uint64_t last = word_at(d, all / 8 - 1) & ~(~0ull << (d->nr_bits % 64));
		atomic_store_explicit(&d->words[all / 8 - 1], htole64(last), memory_order_relaxed);
	}
}
