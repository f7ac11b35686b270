/* SPDX-License-Identifier: MIT */
/* Refcount entries: 1 << order bits wide. */
#ifndef COW_REFCOUNT_ENTRY_H
#define COW_REFCOUNT_ENTRY_H

#include <stdint.h>

uint64_t cow_refcount_get(const void *block, uint32_t order, uint64_t idx);
void cow_refcount_set(void *block, uint32_t order, uint64_t idx, uint64_t value);
uint64_t cow_refcount_max(uint32_t order);
/* The first index from idx on, below end, whose count is 0; end: there is none. */
uint64_t cow_refcount_find_zero(const void *block, uint32_t order, uint64_t idx, uint64_t end);

#endif
