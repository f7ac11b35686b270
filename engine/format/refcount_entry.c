/* SPDX-License-Identifier: MIT */
/*
 * Refcount entries of 1 to 64 bits.
 *
 * order  width  layout in a refcount block
 *  0..2  1,2,4  several entries a byte, entry 0 in the least significant bits
 *  3      8     a byte
 *  4..6  16..64 big-endian
 */
#include "engine/format/refcount_entry.h"

#include <stdbool.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"

uint64_t cow_refcount_max(uint32_t order)
{
	return order >= 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;
}

static uint64_t get_sub_byte(const uint8_t *block, uint32_t order, uint64_t idx)
{
	uint32_t width = 1u << order, per_byte_shift = 3 - order;
	uint32_t shift = (uint32_t)(idx & ((1u << per_byte_shift) - 1)) * width;
	return (block[idx >> per_byte_shift] >> shift) & ((1u << width) - 1);
}

static void set_sub_byte(uint8_t *block, uint32_t order, uint64_t idx, uint64_t value)
{
	uint32_t width = 1u << order, per_byte_shift = 3 - order;
	uint32_t shift = (uint32_t)(idx & ((1u << per_byte_shift) - 1)) * width;
	uint32_t mask = ((1u << width) - 1) << shift;
	uint8_t *byte = &block[idx >> per_byte_shift];
	*byte = (uint8_t)((*byte & ~mask) | ((uint32_t)value << shift));
}

uint64_t cow_refcount_get(const void *block, uint32_t order, uint64_t idx)
{
	const uint8_t *p = block;
	switch (order) {
	case 3:
		return p[idx];
	case 4:
		return cow_load16_be(p + idx * 2);
	case 5:
		return cow_load32_be(p + idx * 4);
	case 6:
		return cow_load64_be(p + idx * 8);
	default:
		cow_assert(order < 3);
		return get_sub_byte(p, order, idx);
	}
}

void cow_refcount_set(void *block, uint32_t order, uint64_t idx, uint64_t value)
{
	uint8_t *p = block;
	cow_assert(value <= cow_refcount_max(order));
	switch (order) {
	case 3:
		p[idx] = (uint8_t)value;
		break;
	case 4:
		cow_store16_be(p + idx * 2, (uint16_t)value);
		break;
	case 5:
		cow_store32_be(p + idx * 4, (uint32_t)value);
		break;
	case 6:
		cow_store64_be(p + idx * 8, value);
		break;
	default:
		cow_assert(order < 3);
		set_sub_byte(p, order, idx, value);
	}
}

/* 64 bits of entries, of any width and byte order: (v - 1) & ~v & top has a bit if one of them is 0. */
static bool has_zero(const uint8_t *p, uint64_t ones, unsigned width)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
	return (v - ones) & ~v & ones << (width - 1);
}

uint64_t cow_refcount_find_zero(const void *block, uint32_t order, uint64_t idx, uint64_t end)
{
	/* behind a free one mostly comes another */
	if (idx < end && !cow_refcount_get(block, order, idx))
		return idx;
	unsigned width = 1u << order;
	uint64_t ones = UINT64_MAX / cow_refcount_max(order), per_word = 64 >> order;
	const uint8_t *p = block;
	while (idx < end) {
		if (!(idx % per_word) && end - idx >= per_word &&
		    !has_zero(p + (idx << order) / 8, ones, width))
			idx += per_word;
		else if (cow_refcount_get(block, order, idx))
			idx++;
		else
			return idx;
	}
	return end;
}
