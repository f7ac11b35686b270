/* SPDX-License-Identifier: MIT */
#include "bench/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/assert.h"

#define MAX_FILES 4
#define FILE_ROOM_BYTES                                                                            \
	(4ull << 30) /* address space, not memory; more is too much under valgrind */

struct memory_file {
	struct cow_file base; /* first */
	char *data;
};

struct memory_loop {
	struct cow_loop base; /* first */
	struct cow_io *queued, **queued_tail;
	struct cow_io *timers; /* fire only when nothing else is left to do: figures do not depend
				  on the clock */
};

static struct memory_file files[MAX_FILES];
static unsigned nr_files;
static const char *ignored_start, *ignored_end;
static uint64_t nr_ios;

void bench_memory_ignore(const void *start, size_t bytes)
{
	ignored_start = start;
	ignored_end = ignored_start + bytes;
}

uint64_t bench_memory_ios(void)
{
	uint64_t n = nr_ios;
	nr_ios = 0;
	return n;
}

/* ---- files ---- */

static struct memory_file *find(const char *path)
{
	for (unsigned i = 0; i < nr_files; i++)
		if (!strcmp(files[i].base.path, path))
			return &files[i];
	return NULL;
}

static int load(struct memory_file *file, const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int ret = fstat(fd, &st) ? -errno : 0;
	for (uint64_t off = 0; !ret && off < (uint64_t)st.st_size;) {
		ssize_t n = pread(fd, file->data + off, (size_t)st.st_size - off, (off_t)off);
		if (n <= 0)
			ret = n ? -errno : -EIO;
		else
			off += (uint64_t)n;
	}
	close(fd);
	file->base.size_bytes = (uint64_t)st.st_size;
	return ret;
}

static int add(struct cow_host *host, const char *path, bool create, struct memory_file **out)
{
	if (nr_files == MAX_FILES)
		return -ENFILE;
	struct memory_file *file = &files[nr_files];
	file->data = mmap(NULL, FILE_ROOM_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (file->data == MAP_FAILED)
		return -ENOMEM;
	file->base = (struct cow_file){ .host = host,
					.path = strdup(path),
					.ino = nr_files + 1,
					.direct = true,
					.can_punch = true };
	int ret = create ? 0 : load(file, path);
	if (ret || !file->base.path)
		return ret ? ret : -ENOMEM;
	nr_files++;
	*out = file;
	return 0;
}

static int memory_open(struct cow_host *host, const char *path, unsigned flags,
		       struct cow_file **out, struct cow_error *err)
{
	struct memory_file *file = find(path);
	int ret = file ? 0 : add(host, path, flags & COW_OPEN_CREATE, &file);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot be read into memory: %s", path,
				     strerror(-ret));
	file->base.writable = flags & (COW_OPEN_WRITE | COW_OPEN_CREATE);
	*out = &file->base;
	return 0;
}

static void memory_close(struct cow_file *file)
{
}

static int memory_realpath(struct cow_host *host, const char *path, char **out)
{
	*out = strdup(path);
	return *out ? 0 : -ENOMEM;
}

static const struct cow_host_ops host_ops = {
	.open = memory_open,
	.close = memory_close,
	.realpath = memory_realpath,
};

struct cow_host *bench_memory_host(void)
{
	static struct cow_host host = { .ops = &host_ops };
	return &host;
}

/* ---- the loop ---- */

static void copy(struct memory_file *file, const struct cow_io *io)
{
	char *at = file->data + io->offset + io->progress_bytes;
	for (unsigned i = 0; i < io->nr_vec; i++) {
		char *base = io->vec[i].iov_base;
		size_t len = io->vec[i].iov_len;
		if (base >= ignored_start && base < ignored_end)
			continue;
		if (io->kind == COW_IO_READ)
			memcpy(base, at, len);
		else
			memcpy(at, base, len);
		at += len;
	}
}

static void execute(struct cow_io *io)
{
	struct memory_file *file = (struct memory_file *)io->file;
	int64_t result = 0;
	switch (io->kind) {
	case COW_IO_READ:
	case COW_IO_WRITE:
		cow_assert(io->offset + io->length <= FILE_ROOM_BYTES);
		copy(file, io);
		result = (int64_t)io->length;
		break;
	case COW_IO_PUNCH:
		madvise(file->data + io->offset, io->length, MADV_DONTNEED);
		break;
	case COW_IO_SYNC:
	case COW_IO_RESIZE:
	case COW_IO_TIMER:
		break;
	}
	cow_io_raw_done(io, result);
}

static void memory_start(struct cow_loop *base, struct cow_io *io)
{
	struct memory_loop *loop = (struct memory_loop *)base;
	io->next = NULL;
	if (io->kind == COW_IO_TIMER) {
		io->next = loop->timers;
		loop->timers = io;
		return;
	}
	nr_ios++;
	*loop->queued_tail = io;
	loop->queued_tail = &io->next;
}

static int memory_drain(struct cow_loop *base, bool wait)
{
	struct memory_loop *loop = (struct memory_loop *)base;
	struct cow_io *io = loop->queued;
	if (!io && wait) {
		io = loop->timers;
		loop->timers = NULL;
	}
	loop->queued = NULL;
	loop->queued_tail = &loop->queued;
	while (io) {
		struct cow_io *next = io->next;
		execute(io);
		io = next;
	}
	return 0;
}

static void memory_wake(struct cow_loop *base)
{
}

static uint64_t memory_now(struct cow_loop *base)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void memory_free(struct cow_loop *base)
{
	free(base);
}

static const struct cow_loop_ops loop_ops = {
	.start = memory_start,
	.drain = memory_drain,
	.wake = memory_wake,
	.now = memory_now,
	.free = memory_free,
};

int bench_memory_loop_new(struct cow_loop **out)
{
	struct memory_loop *loop = calloc(1, sizeof(*loop));
	if (!loop)
		return -ENOMEM;
	cow_loop_init(&loop->base, &loop_ops);
	loop->queued_tail = &loop->queued;
	*out = &loop->base;
	return 0;
}
