/* SPDX-License-Identifier: MIT */
#include "engine/crypt/secret.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/base/log.h"

static size_t round_to_pages(size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	return (bytes + page - 1) / page * page;
}

/* Pages of their own: a lock and an exception from core dumps hold for whole pages. */
void *cow_secret_memory_new(size_t bytes)
{
	static atomic_bool warned;
	size_t size = round_to_pages(bytes);
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	if (mlock(memory, size) && !atomic_exchange(&warned, true))
		cow_log(COW_LOG_WARNING,
			"key material cannot be locked in memory: %s: raise RLIMIT_MEMLOCK",
			strerror(errno));
	madvise(memory, size, MADV_DONTDUMP);
	return memory;
}

void cow_secret_memory_free(void *memory, size_t bytes)
{
	if (!memory)
		return;
	explicit_bzero(memory, bytes);
	munmap(memory, round_to_pages(bytes));
}

struct cow_secret *cow_secret_new(void)
{
	return cow_secret_memory_new(sizeof(struct cow_secret));
}

void cow_secret_free(struct cow_secret *secret)
{
	cow_secret_memory_free(secret, sizeof(*secret));
}
