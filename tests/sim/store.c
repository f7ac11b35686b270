/* SPDX-License-Identifier: MIT */
#include "tests/sim/store.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "tests/sim/random.h"

#define CHUNK 16384u

static uint64_t piece(uint64_t offset, uint64_t length)
{
	uint64_t room = CHUNK - offset % CHUNK;
	return length < room ? length : room;
}

static uint8_t *chunk_for_writing(struct sim_store *s, uint64_t offset)
{
	size_t idx = (size_t)(offset / CHUNK);
	if (idx >= s->nr_chunks) {
		size_t nr = (idx + 64) * 2;
		s->chunks = realloc(s->chunks, nr * sizeof(*s->chunks));
		cow_assert(s->chunks);
		memset(s->chunks + s->nr_chunks, 0, (nr - s->nr_chunks) * sizeof(*s->chunks));
		s->nr_chunks = nr;
	}
	if (!s->chunks[idx]) {
		s->chunks[idx] = calloc(1, CHUNK);
		cow_assert(s->chunks[idx]);
	}
	return s->chunks[idx];
}

static uint8_t *chunk_at(const struct sim_store *s, uint64_t offset)
{
	size_t idx = (size_t)(offset / CHUNK);
	return idx < s->nr_chunks ? s->chunks[idx] : NULL;
}

void sim_store_fini(struct sim_store *s)
{
	for (size_t i = 0; i < s->nr_chunks; i++)
		free(s->chunks[i]);
	free(s->chunks);
	memset(s, 0, sizeof(*s));
}

void sim_store_copy(struct sim_store *to, const struct sim_store *from)
{
	sim_store_fini(to);
	for (size_t i = 0; i < from->nr_chunks; i++)
		if (from->chunks[i])
			memcpy(chunk_for_writing(to, (uint64_t)i * CHUNK), from->chunks[i], CHUNK);
	to->size_bytes = from->size_bytes;
}

void sim_store_read(const struct sim_store *s, uint64_t offset, void *buf, uint64_t length)
{
	while (length) {
		uint64_t n = piece(offset, length);
		const uint8_t *chunk = chunk_at(s, offset);
		if (chunk)
			memcpy(buf, chunk + offset % CHUNK, n);
		else
			memset(buf, 0, n);
		buf = (char *)buf + n;
		offset += n;
		length -= n;
	}
}

void sim_store_write(struct sim_store *s, uint64_t offset, const void *buf, uint64_t length)
{
	if (offset + length > s->size_bytes)
		s->size_bytes = offset + length;
	while (length) {
		uint64_t n = piece(offset, length);
		memcpy(chunk_for_writing(s, offset) + offset % CHUNK, buf, n);
		buf = (const char *)buf + n;
		offset += n;
		length -= n;
	}
}

void sim_store_zero(struct sim_store *s, uint64_t offset, uint64_t length)
{
	while (length) {
		uint64_t n = piece(offset, length);
		uint8_t *chunk = chunk_at(s, offset);
		if (chunk && n == CHUNK) {
			free(chunk);
			s->chunks[offset / CHUNK] = NULL;
		} else if (chunk) {
			memset(chunk + offset % CHUNK, 0, n);
		}
		offset += n;
		length -= n;
	}
}

void sim_store_resize(struct sim_store *s, uint64_t size_bytes)
{
	if (size_bytes < s->size_bytes)
		sim_store_zero(s, size_bytes, s->size_bytes - size_bytes);
	s->size_bytes = size_bytes;
}

uint64_t sim_store_sum(const struct sim_store *s, uint64_t offset, uint64_t length, uint64_t salt)
{
	uint64_t sum = 0, word;
	for (uint64_t end = offset + length; offset < end;) {
		uint64_t n = piece(offset, end - offset);
		const uint8_t *chunk = chunk_at(s, offset);
		for (uint64_t at = 0; chunk && at < n; at += sizeof(word)) {
			memcpy(&word, chunk + (offset + at) % CHUNK, sizeof(word));
			if (word)
				sum += sim_mix(word ^ sim_mix(offset + at + (salt << 48)));
		}
		offset += n;
	}
	return sum;
}

bool sim_store_is_hole(const struct sim_store *s, uint64_t offset)
{
	return !chunk_at(s, offset);
}

bool sim_store_look(const struct sim_store *s, uint64_t offset, uint64_t limit, uint64_t *end)
{
	bool hole = sim_store_is_hole(s, offset);
	*end = offset - offset % CHUNK + CHUNK;
	while (*end < limit && sim_store_is_hole(s, *end) == hole)
		*end += CHUNK;
	return hole;
}
