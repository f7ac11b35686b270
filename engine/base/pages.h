/* SPDX-License-Identifier: MIT */
/*
 * Memory that costs address space until it is touched, and can be given back. Page-aligned, zeroed,
 * fit for direct I/O. In a process that locks its memory what is touched is locked, and what is
 * given back is not.
 */
#ifndef COW_PAGES_H
#define COW_PAGES_H

#include <stddef.h>

/* NULL: no address space. At least a page. */
void *cow_pages_reserve(size_t bytes);
/* bytes as reserved; p may be NULL. */
void cow_pages_free(void *p, size_t bytes);
/*
 * Takes the memory now; what it holds stays, others may use it meanwhile. Sleeps while the machine
 * has none, so not where requests are served.
 */
void cow_pages_take(void *p, size_t bytes);
/* Gives the whole pages in [p, p+bytes) back. Their content is lost: they read as zeros. */
void cow_pages_give_back(void *p, size_t bytes);
/* All that was reserved: gives it back and reads as zeros. */
void cow_pages_clear(void *p, size_t bytes);

#endif
