/* SPDX-License-Identifier: MIT */
/* Refcounts of every width, and the packed word of a compressed cluster. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/format/format.h"
#include "engine/format/map.h"

#define BLOCK_BYTES 512u

/*
 * The plain definition: bit k of entry i, counted from the least significant bit of the entry's
 * last byte.
 */
static unsigned bit_of(const uint8_t *block, uint32_t order, uint64_t idx, unsigned bit)
{
	unsigned width = 1u << order;
	if (width < 8) {
		uint64_t at = idx * width + bit;
		return block[at / 8] >> (at % 8) & 1;
	}
	uint64_t last_byte = (idx + 1) * (width / 8) - 1;
	return block[last_byte - bit / 8] >> (bit % 8) & 1;
}

static void assert_stored(const uint8_t *block, uint32_t order, uint64_t idx, uint64_t value)
{
	for (unsigned bit = 0; bit < 1u << order; bit++)
		assert_int_equal(bit_of(block, order, idx, bit), value >> bit & 1);
}

static void set_then_get(uint32_t order)
{
	uint8_t block[BLOCK_BYTES];
	uint64_t nr = BLOCK_BYTES * 8 >> order, max = cow_refcount_max(order);
	const uint64_t values[] = { 0, 1, max / 2, max, max & 0x123456789abcdef0ull };
	for (unsigned v = 0; v < 5; v++) {
		for (uint64_t idx = 0; idx < nr; idx++) {
			memset(block, 0xa5, sizeof(block));
			uint64_t before = idx ? cow_refcount_get(block, order, idx - 1) : 0;
			uint64_t after = idx + 1 < nr ? cow_refcount_get(block, order, idx + 1) : 0;
			cow_refcount_set(block, order, idx, values[v]);
			assert_int_equal(cow_refcount_get(block, order, idx), values[v]);
			assert_stored(block, order, idx, values[v]);
			if (idx)
				assert_int_equal(cow_refcount_get(block, order, idx - 1), before);
			if (idx + 1 < nr)
				assert_int_equal(cow_refcount_get(block, order, idx + 1), after);
		}
	}
}

static void every_width(void **state)
{
	for (uint32_t order = 0; order <= 6; order++)
		set_then_get(order);
}

/* Every place of a zero, from every place on, among counts of all kinds: lanes that differ by a borrow too. */
static void find_zero(void **state)
{
	for (uint32_t order = 0; order <= 6; order++) {
		uint8_t block[64 + 1];
		uint64_t nr = 64 * 8 >> order, max = cow_refcount_max(order);
		const uint64_t counts[] = { 1, max, max / 2 + 1 };
		for (unsigned i = 0; i < nr * 3; i++) {
			uint64_t zero = i % nr;
			for (uint64_t n = 0; n < nr; n++)
				cow_refcount_set(block + 1, order, n,
						 n == zero ? 0 : counts[i / nr]);
			for (uint64_t from = 0; from < nr; from++) {
				uint64_t end = nr - from / 3;
				bool there = from <= zero && zero < end;
				uint64_t at = cow_refcount_find_zero(block + 1, order, from, end);
				assert_int_equal(at, there ? zero : end);
			}
		}
	}
}

static void largest_values(void **state)
{
	assert_int_equal(cow_refcount_max(0), 1);
	assert_int_equal(cow_refcount_max(2), 15);
	assert_int_equal(cow_refcount_max(4), 65535);
	assert_int_equal(cow_refcount_max(5), UINT32_MAX);
	assert_true(cow_refcount_max(6) == UINT64_MAX);
}

/* From the specification: cluster_bits 16 leaves 54 bits of offset and 8 bits of sectors. */
static void compressed_word(void **state)
{
	struct cow_compressed c =
		cow_compressed_decode(QCOW2_COMPRESSED | (3ull << 54) | 0x12345, 16);
	assert_int_equal(c.off, 0x12345);
	assert_int_equal(c.bytes, 4 * 512 - (0x12345 & 511));
	c = cow_compressed_decode(QCOW2_COMPRESSED | 0x200, 9);
	assert_int_equal(c.off, 0x200);
	assert_int_equal(c.bytes, 512);
	c = cow_compressed_decode(~0ull, 21);
	assert_int_equal(c.off, (1ull << 49) - 1);
	assert_int_equal(c.bytes, 8192 * 512 - 511);
}

/* Encoding names just the sectors that the bytes touch. */
static void compressed_round_trip(void **state)
{
	for (uint32_t bits = QCOW2_MIN_CLUSTER_BITS; bits <= QCOW2_MAX_CLUSTER_BITS; bits++) {
		for (uint64_t off = 1; off < 1u << 20; off = off * 3 + 7) {
			for (uint32_t bytes = 1; bytes < 1u << bits; bytes = bytes * 2 + 5) {
				uint64_t word = cow_compressed_encode(off, bytes, bits);
				struct cow_compressed c = cow_compressed_decode(word, bits);
				assert_true(word & QCOW2_COMPRESSED && !(word & QCOW2_COPIED));
				assert_int_equal(c.off, off);
				assert_true(c.bytes >= bytes && c.bytes < bytes + 512);
				assert_int_equal((c.off + c.bytes) % 512, 0);
			}
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_width),		 cmocka_unit_test(find_zero),
		cmocka_unit_test(largest_values),	 cmocka_unit_test(compressed_word),
		cmocka_unit_test(compressed_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
