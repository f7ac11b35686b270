/* SPDX-License-Identifier: MIT */
#include "engine/base/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/base/math.h"
#include "engine/base/pages.h"

static uint64_t page_bytes(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

int cow_shared_begin(struct cow_shared *shared, int fd)
{
	*shared = (struct cow_shared){ .fd = fd };
	return ftruncate(fd, 0) ? -errno : 0;
}

static int take_private(size_t bytes, struct cow_shared_part *part)
{
	part->memory = cow_pages_reserve(bytes);
	part->bytes = bytes;
	return part->memory ? 0 : -ENOMEM;
}

int cow_shared_take(struct cow_shared *shared, size_t bytes, struct cow_shared_part *part)
{
	*part = (struct cow_shared_part){ .shared = shared };
	if (!shared)
		return take_private(bytes, part);
	part->off = shared->bytes;
	part->bytes = cow_round_up(bytes ? bytes : 1, page_bytes());
	if (ftruncate(shared->fd, (off_t)(part->off + part->bytes)))
		return -errno;
	void *p = mmap(NULL, part->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
		       shared->fd, (off_t)part->off);
	if (p == MAP_FAILED)
		return -errno;
	part->memory = p;
	shared->bytes += part->bytes;
	return 0;
}

void cow_shared_unmap(struct cow_shared_part *part)
{
	cow_pages_free(part->memory, part->bytes);
	part->memory = NULL;
}

void cow_shared_give_back(const struct cow_shared_part *part, size_t off, size_t bytes)
{
	uint64_t page = page_bytes();
	cow_assert(off + bytes <= part->bytes);
	if (!part->shared) {
		cow_pages_give_back((char *)part->memory + off, bytes);
		return;
	}
	uint64_t start = cow_round_up(off, page), end = cow_round_down(off + bytes, page);
	if (start < end)
		fallocate(part->shared->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (off_t)(part->off + start), (off_t)(end - start));
}

/* Behind the end of the file a look would be a SIGBUS. */
const void *cow_shared_map_left(int fd, uint64_t off, size_t bytes)
{
	struct stat st;
	if (!bytes || off % page_bytes() || fstat(fd, &st) || off > (uint64_t)st.st_size ||
	    bytes > (uint64_t)st.st_size - off)
		return NULL;
	void *p = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, (off_t)off);
	return p == MAP_FAILED ? NULL : p;
}

void cow_shared_unmap_left(const void *p, size_t bytes)
{
	if (p)
		munmap((void *)(uintptr_t)p, bytes);
}
