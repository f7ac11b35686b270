/* SPDX-License-Identifier: MIT */
/* See memory.h. The files are those of tests/memory; here are the loop, and what comes of guest data. */
#include "bench/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "tests/memory/handle.h"

/* Address space, not memory; more is too much under valgrind. */
#define FILE_ROOM_BYTES (4ull << 30)
#define LOAD_BYTES 65536u

struct memory_loop {
	struct cow_loop base; /* first */
	struct cow_io *queued, **queued_tail;
	struct cow_io *timers; /* fire only when nothing else is left to do: figures do not depend
				  on the clock */
};

static struct memory_disk disk;
static struct cow_host_ops host_ops;
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

static int load(const char *path)
{
	static char buf[LOAD_BYTES];
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int ret = fstat(fd, &st) ? -errno : st.st_size > (off_t)FILE_ROOM_BYTES ? -EFBIG : 0;
	struct memory_file *file = ret ? NULL : memory_disk_create(&disk, path);
	for (off_t off = 0; !ret && off < st.st_size;) {
		ssize_t n = pread(fd, buf, sizeof(buf), off);
		if (n <= 0) {
			ret = n ? -errno : -EIO;
			break;
		}
		memory_content_write(&file->now, (uint64_t)off, buf, (uint64_t)n);
		off += n;
	}
	close(fd);
	return ret;
}

static int open_or_load(struct cow_host *host, const char *path, unsigned flags,
			struct cow_file **out, struct cow_error *err)
{
	int ret = memory_disk_find(&disk, path) || flags & COW_OPEN_CREATE ? 0 : load(path);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot be read into memory: %s", path,
				     strerror(-ret));
	return memory_host_ops.open(host, path, flags, out, err);
}

/* A name is the real host's. */
static int same_path(struct cow_host *host, const char *path, char **out)
{
	*out = strdup(path);
	return *out ? 0 : -ENOMEM;
}

struct cow_host *bench_memory_host(void)
{
	if (!disk.host.ops) {
		memory_disk_init(&disk, FILE_ROOM_BYTES);
		host_ops = *disk.host.ops;
		host_ops.open = open_or_load;
		host_ops.realpath = same_path;
		host_ops.length = NULL; /* nobody cuts them: not to be asked for each read */
		disk.host.ops = &host_ops;
		disk.direct = true;
	}
	return &disk.host;
}

/* ---- the loop ---- */

/* All of it: nothing is ever cut short. Guest data leaves the length of the file, no more. */
static int64_t transfer(const struct cow_io *io)
{
	struct memory_content *c = &memory_file_of(io->file)->now;
	uint64_t off = io->offset, end = io->offset + io->length;
	if (end > FILE_ROOM_BYTES)
		return -EFBIG;
	for (unsigned i = 0; i < io->nr_vec; i++) {
		char *base = io->vec[i].iov_base;
		size_t len = io->vec[i].iov_len;
		bool ignored = base >= ignored_start && base < ignored_end;
		if (!ignored && io->kind == COW_IO_READ)
			memory_content_read(c, off, base, len);
		else if (!ignored)
			memory_content_write(c, off, base, len);
		off += len;
	}
	if (io->kind == COW_IO_WRITE && end > c->size_bytes)
		c->size_bytes = end;
	return (int64_t)io->length;
}

static void execute(struct cow_io *io)
{
	int64_t result = 0;
	switch (io->kind) {
	case COW_IO_READ:
	case COW_IO_WRITE:
		result = transfer(io);
		break;
	case COW_IO_PUNCH:
	case COW_IO_RESIZE:
		result = memory_perform(io, 0, NULL);
		break;
	case COW_IO_SYNC:
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
