/* SPDX-License-Identifier: MIT */
#include "tests/memory/content.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/base/assert.h"
#include "engine/base/math.h"

/* Whole blocks, then in_use. Address space only: memory is what is touched. */
static uint64_t map_bytes(uint64_t capacity)
{
	uint64_t blocks = cow_round_up(capacity, MEMORY_BLOCK_BYTES);
	return blocks + blocks / MEMORY_BLOCK_BYTES + 1;
}

int memory_content_init(struct memory_content *c, uint64_t capacity_bytes)
{
	memset(c, 0, sizeof(*c));
	uint8_t *map = mmap(NULL, map_bytes(capacity_bytes), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return -ENOMEM;
	c->bytes = map;
	c->in_use = map + cow_round_up(capacity_bytes, MEMORY_BLOCK_BYTES);
	c->capacity_bytes = capacity_bytes;
	return 0;
}

void memory_content_fini(struct memory_content *c)
{
	if (c->bytes)
		munmap(c->bytes, map_bytes(c->capacity_bytes));
	memset(c, 0, sizeof(*c));
}

static void take(struct memory_content *c, uint64_t block)
{
	c->used_bytes += c->in_use[block] ? 0 : MEMORY_BLOCK_BYTES;
	c->in_use[block] = 1;
	c->end_block = cow_max(c->end_block, block + 1);
}

/* It is whole, and its bytes are zeros by now. */
static void give(struct memory_content *c, uint64_t block)
{
	c->used_bytes -= MEMORY_BLOCK_BYTES;
	c->in_use[block] = 0;
}

void memory_content_copy(struct memory_content *to, const struct memory_content *from)
{
	if (!to->bytes)
		cow_assert(!memory_content_init(to, from->capacity_bytes));
	cow_assert(to->capacity_bytes == from->capacity_bytes);
	uint64_t end = cow_max(to->end_block, from->end_block);
	for (uint64_t b = 0; b < end; b++) {
		uint64_t at = b * MEMORY_BLOCK_BYTES;
		if (from->in_use[b]) {
			take(to, b);
			memcpy(to->bytes + at, from->bytes + at, MEMORY_BLOCK_BYTES);
		} else {
			memory_content_zero(to, at, MEMORY_BLOCK_BYTES);
		}
	}
	to->size_bytes = from->size_bytes;
}

void memory_content_read(const struct memory_content *c, uint64_t offset, void *buf,
			 uint64_t length)
{
	uint64_t room = offset < c->capacity_bytes ? c->capacity_bytes - offset : 0;
	uint64_t n = cow_min(length, room);
	if (n)
		memcpy(buf, c->bytes + offset, n);
	memset((char *)buf + n, 0, length - n);
}

void memory_content_write(struct memory_content *c, uint64_t offset, const void *buf,
			  uint64_t length)
{
	cow_assert(offset <= c->capacity_bytes && length <= c->capacity_bytes - offset);
	if (!length)
		return;
	for (uint64_t b = offset / MEMORY_BLOCK_BYTES; b * MEMORY_BLOCK_BYTES < offset + length;
	     b++)
		take(c, b);
	memcpy(c->bytes + offset, buf, length);
	c->size_bytes = cow_max(c->size_bytes, offset + length);
}

void memory_content_zero(struct memory_content *c, uint64_t offset, uint64_t length)
{
	uint64_t end = cow_min(offset + length, c->end_block * MEMORY_BLOCK_BYTES);
	for (uint64_t n; offset < end; offset += n) {
		uint64_t b = offset / MEMORY_BLOCK_BYTES;
		n = cow_min(MEMORY_BLOCK_BYTES - offset % MEMORY_BLOCK_BYTES, end - offset);
		if (!c->in_use[b])
			continue;
		memset(c->bytes + offset, 0, n);
		if (n == MEMORY_BLOCK_BYTES)
			give(c, b);
	}
}

void memory_content_resize(struct memory_content *c, uint64_t size_bytes)
{
	if (size_bytes < c->size_bytes)
		memory_content_zero(c, size_bytes, c->size_bytes - size_bytes);
	c->size_bytes = size_bytes;
}

bool memory_content_is_hole(const struct memory_content *c, uint64_t offset)
{
	return offset >= c->capacity_bytes || !c->in_use[offset / MEMORY_BLOCK_BYTES];
}

bool memory_content_look(const struct memory_content *c, uint64_t offset, uint64_t limit,
			 uint64_t *end)
{
	bool hole = memory_content_is_hole(c, offset);
	*end = offset - offset % MEMORY_BLOCK_BYTES + MEMORY_BLOCK_BYTES;
	while (*end < limit && memory_content_is_hole(c, *end) == hole)
		*end += MEMORY_BLOCK_BYTES;
	return hole;
}

uint64_t memory_content_new_bytes(const struct memory_content *c, uint64_t offset, uint64_t length)
{
	uint64_t bytes = 0;
	for (uint64_t b = offset / MEMORY_BLOCK_BYTES; b * MEMORY_BLOCK_BYTES < offset + length;
	     b++)
		bytes += memory_content_is_hole(c, b * MEMORY_BLOCK_BYTES) ? MEMORY_BLOCK_BYTES : 0;
	return bytes;
}
