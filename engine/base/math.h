/* SPDX-License-Identifier: MIT */
/* Arithmetic on sizes and offsets. unit: a power of two. */
#ifndef COW_MATH_H
#define COW_MATH_H

#include <stdint.h>

static inline uint64_t cow_round_down(uint64_t v, uint64_t unit)
{
	return v & ~(unit - 1);
}

static inline uint64_t cow_round_up(uint64_t v, uint64_t unit)
{
	return (v + unit - 1) & ~(unit - 1);
}

static inline uint64_t cow_min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t cow_max(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

#endif
