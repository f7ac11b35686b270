/* SPDX-License-Identifier: MIT */
#include "engine/base/pages.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Newer than the headers of Debian 12: MADV_DONTNEED refuses locked memory. From 5.18. */
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

static size_t page_bytes(void)
{
	static size_t bytes;
	if (!bytes)
		bytes = (size_t)sysconf(_SC_PAGESIZE);
	return bytes;
}

static size_t rounded(size_t bytes)
{
	size_t page = page_bytes();
	return bytes ? (bytes + page - 1) / page * page : page;
}

/* A huge page would take all around what is touched. */
void *cow_pages_reserve(size_t bytes)
{
	void *p = mmap(NULL, rounded(bytes), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	madvise(p, rounded(bytes), MADV_NOHUGEPAGE);
	return p;
}

void cow_pages_free(void *p, size_t bytes)
{
	if (p)
		munmap(p, rounded(bytes));
}

/* A store of what is there. Not an OR of nothing: Clang makes no store of that at all. */
__attribute__((no_sanitize("thread"))) static void touch(char *p)
{
	char was = __atomic_load_n(p, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(p, &was, was, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

/*
 * By writing what is there, not by madvise(MADV_POPULATE_WRITE): that would keep the lock of the whole address
 * space, which others' faults may need, while it waits for memory.
 */
__attribute__((no_sanitize("thread"))) void cow_pages_take(void *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += page_bytes())
		touch((char *)p + i);
	if (bytes)
		touch((char *)p + bytes - 1);
}

void cow_pages_give_back(void *p, size_t bytes)
{
	size_t page = page_bytes();
	uintptr_t start = ((uintptr_t)p + page - 1) / page * page;
	uintptr_t end = ((uintptr_t)p + bytes) / page * page;
	if (start >= end)
		return;
	void *at = (void *)start;
	if (madvise(at, end - start, MADV_DONTNEED_LOCKED) &&
	    madvise(at, end - start, MADV_DONTNEED))
		memset(at, 0, end - start);
}

void cow_pages_clear(void *p, size_t bytes)
{
	cow_pages_give_back(p, rounded(bytes));
}
