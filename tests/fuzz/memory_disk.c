/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/memory_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct memory_disk *disk_of(struct cow_loop *loop)
{
	return (struct memory_disk *)((char *)loop - offsetof(struct memory_disk, loop));
}

static int64_t do_read(struct memory_disk *disk, const struct cow_io *io)
{
	uint64_t off = io->offset + io->progress_bytes, size = disk->file.size_bytes;
	for (unsigned i = 0; i < io->nr_vec; off += io->vec[i++].iov_len) {
		uint64_t left = off < size ? size - off : 0;
		uint64_t n = left < io->vec[i].iov_len ? left : io->vec[i].iov_len;
		if (n)
			memcpy(io->vec[i].iov_base, disk->bytes + off, n);
		memset((char *)io->vec[i].iov_base + n, 0, io->vec[i].iov_len - n);
	}
	return (int64_t)(io->length - io->progress_bytes);
}

static int64_t do_write(struct memory_disk *disk, const struct cow_io *io)
{
	uint64_t off = io->offset + io->progress_bytes, length = io->length - io->progress_bytes;
	if (off > disk->capacity || length > disk->capacity - off)
		return -EFBIG;
	for (unsigned i = 0; i < io->nr_vec; off += io->vec[i++].iov_len)
		memcpy(disk->bytes + off, io->vec[i].iov_base, io->vec[i].iov_len);
	if (off > disk->file.size_bytes)
		disk->file.size_bytes = off;
	return (int64_t)length;
}

static int64_t do_resize(struct memory_disk *disk, uint64_t size)
{
	if (size > disk->capacity)
		return -EFBIG;
	if (size < disk->file.size_bytes)
		memset(disk->bytes + size, 0, disk->file.size_bytes - size);
	disk->file.size_bytes = size;
	return 0;
}

static int64_t do_punch(struct memory_disk *disk, const struct cow_io *io)
{
	uint64_t size = disk->file.size_bytes, left = io->offset < size ? size - io->offset : 0;
	memset(disk->bytes + (left ? io->offset : 0), 0, io->length < left ? io->length : left);
	return 0;
}

/* The loop is one disk's, the file may be another's. */
static int64_t execute(struct memory_disk *loops, const struct cow_io *io)
{
	struct memory_disk *disk = io->file ? (struct memory_disk *)io->file : loops;
	switch (io->kind) {
	case COW_IO_PUNCH:
		return do_punch(disk, io);
	case COW_IO_READ:
		return do_read(disk, io);
	case COW_IO_WRITE:
		return do_write(disk, io);
	case COW_IO_RESIZE:
		return do_resize(disk, io->offset);
	case COW_IO_TIMER:
		loops->clock_ns += io->offset;
		return 0;
	default:
		return 0;
	}
}

/* Of a transfer in one piece its first bytes. */
static int64_t execute_part(struct memory_disk *disk, const struct cow_io *io, uint64_t bytes)
{
	struct cow_io part = *io;
	uint64_t left = io->length - io->progress_bytes;
	if ((io->kind != COW_IO_READ && io->kind != COW_IO_WRITE) || io->nr_vec != 1 ||
	    bytes >= left)
		return execute(disk, io);
	part.length = io->progress_bytes + bytes;
	part.vec[0].iov_len = bytes;
	return execute(disk, &part);
}

static void start(struct cow_loop *loop, struct cow_io *io)
{
	struct memory_disk *disk = disk_of(loop);
	io->next = NULL;
	*disk->tail = io;
	disk->tail = &io->next;
}

static int drain(struct cow_loop *loop, bool wait)
{
	struct memory_disk *disk = disk_of(loop);
	while (disk->head) {
		struct cow_io *io = disk->head;
		disk->head = io->next;
		if (!disk->head)
			disk->tail = &disk->head;
		int64_t ret = disk->fault ? disk->fault(disk->ctx, io) : 0;
		if (!ret)
			ret = execute(disk, io);
		else if (ret > 0)
			ret = execute_part(disk, io, (uint64_t)ret);
		if (disk->hook && ret >= 0 && io->kind != COW_IO_READ)
			disk->hook(disk->ctx, io);
		cow_io_raw_done(io, ret);
	}
	return 0;
}

static void wake(struct cow_loop *loop)
{
}

static uint64_t now(struct cow_loop *loop)
{
	return disk_of(loop)->clock_ns;
}

static void no_free(struct cow_loop *loop)
{
}

int memory_disk_init(struct memory_disk *disk, const uint8_t *bytes, uint64_t size,
		     uint64_t capacity)
{
	static const struct cow_loop_ops ops = {
		.start = start,
		.drain = drain,
		.wake = wake,
		.now = now,
		.free = no_free,
	};
	memset(disk, 0, sizeof(*disk));
	disk->bytes = calloc(1, capacity);
	if (!disk->bytes)
		return -ENOMEM;
	if (size)
		memcpy(disk->bytes, bytes, size);
	disk->capacity = capacity;
	disk->tail = &disk->head;
	disk->file.path = (char *)(uintptr_t) "memory";
	disk->file.size_bytes = size;
	disk->file.writable = true;
	cow_loop_init(&disk->loop, &ops);
	return 0;
}

void memory_disk_fini(struct memory_disk *disk)
{
	free(disk->bytes);
}
