/* SPDX-License-Identifier: MIT */
#include "tests/memory/handle.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/math.h"

struct memory_file *memory_file_of(const struct cow_file *file)
{
	return ((const struct memory_handle *)file)->of;
}

/* ---- the name space ---- */

static int lock(struct memory_handle *h, unsigned flags)
{
	struct memory_file *f = h->of;
	if ((flags & COW_OPEN_NO_LOCK) || f->disk->one_file)
		return 0;
	if (f->writers || (h->file.writable && f->readers))
		return -EBUSY;
	if (h->file.writable)
		f->writers++;
	else
		f->readers++;
	h->locked = true;
	return 0;
}

static int find_or_create(struct memory_disk *disk, const char *path, unsigned flags,
			  struct memory_file **out)
{
	*out = memory_disk_find(disk, path);
	if (!*out && !(flags & COW_OPEN_CREATE))
		return -ENOENT;
	if (*out && (flags & COW_OPEN_CREATE) && !(flags & COW_OPEN_TRUNCATE) && !(*out)->fixed &&
	    !disk->one_file)
		return -EEXIST;
	if (!*out)
		*out = memory_disk_create(disk, path);
	return 0;
}

static int host_open(struct cow_host *host, const char *path, unsigned flags, struct cow_file **out,
		     struct cow_error *err)
{
	struct memory_disk *disk = (struct memory_disk *)host;
	struct memory_file *f;
	int ret = find_or_create(disk, path, flags, &f);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot open: %s", path, strerror(-ret));
	struct memory_handle *h = calloc(1, sizeof(*h));
	cow_assert(h);
	h->of = f;
	h->file.writable = flags & (COW_OPEN_WRITE | COW_OPEN_CREATE);
	ret = lock(h, flags);
	if (ret) {
		free(h);
		return cow_error_set(err, ret, "%s: the image is in use by this test", path);
	}
	if ((flags & COW_OPEN_TRUNCATE) && f->now.size_bytes && !f->fixed)
		memory_file_resize(f, 0, NULL);
	h->file.host = host;
	h->file.path = strdup(path);
	h->file.dev = 1;
	h->file.ino = f->ino;
	h->file.size_bytes = f->now.size_bytes;
	h->file.direct = disk->direct && !(flags & COW_OPEN_BUFFERED);
	h->file.can_punch = h->file.writable;
	h->file.block_device = f->fixed;
	*out = &h->file;
	return 0;
}

static void host_close(struct cow_file *file)
{
	struct memory_handle *h = (struct memory_handle *)file;
	if (!h)
		return;
	if (h->locked && file->writable)
		h->of->writers--;
	else if (h->locked)
		h->of->readers--;
	free(file->path);
	free(h);
}

static bool is_folder(const struct memory_disk *disk, const char *path)
{
	size_t len = strlen(path);
	bool found = len == 1;
	for (const struct memory_file *f = disk->files; f; f = f->next)
		found |= !strncmp(f->path, path, len) && f->path[len] == '/';
	return found;
}

static int host_realpath(struct cow_host *host, const char *path, char **out)
{
	const struct memory_disk *disk = (struct memory_disk *)host;
	char full[1100];
	int len = snprintf(full, sizeof(full), "%s%s", path[0] == '/' ? "" : "/", path);
	cow_assert(len > 0 && (size_t)len < sizeof(full));
	if (len > 1 && full[len - 1] == '/')
		full[len - 1] = '\0';
	if (!is_folder(disk, full) && !memory_disk_find(disk, full))
		return -ENOENT;
	*out = strdup(full);
	return *out ? 0 : -ENOMEM;
}

static bool host_length(struct cow_file *file, uint64_t *bytes)
{
	*bytes = memory_file_of(file)->now.size_bytes;
	return true;
}

/* ---- for the tools of whole disks ---- */

static int host_keep(struct cow_file *file, struct cow_file **out, struct cow_error *err)
{
	struct memory_handle *h = (struct memory_handle *)file, *next = calloc(1, sizeof(*next));
	cow_assert(next);
	*next = *h;
	next->file.path = strdup(file->path);
	next->file.size_bytes = h->of->now.size_bytes;
	next->file.unlocked = true;
	h->locked = false;
	*out = &next->file;
	return 0;
}

static bool host_look(struct cow_file *file, uint64_t off, bool *hole, uint64_t *end)
{
	const struct memory_file *f = memory_file_of(file);
	*hole = !f->fixed && memory_content_look(&f->now, off, f->now.size_bytes, end);
	return !f->fixed;
}

const struct cow_host_ops memory_host_ops = {
	.open = host_open,
	.close = host_close,
	.realpath = host_realpath,
	.length = host_length,
	.keep = host_keep,
	.look = host_look,
};

/* ---- I/O ---- */

static uint8_t *pages_of(const struct cow_guest *guest)
{
	return ((const struct memory_guest *)guest)->pages;
}

uint8_t *memory_place(const struct cow_io *io, unsigned i)
{
	uint8_t *base = io->vec[i].iov_base;
	return io->guest ? pages_of(io->guest) + (base - io->guest->base) : base;
}

static int fetch(const struct cow_guest *guest, uint64_t off, uint64_t bytes)
{
	memcpy(guest->base + off, pages_of(guest) + off, bytes);
	return 0;
}

static int store(const struct cow_guest *guest, uint64_t off, uint64_t bytes)
{
	memcpy(pages_of(guest) + off, guest->base + off, bytes);
	return 0;
}

void memory_guest_init(struct memory_guest *guest, uint8_t *pages, uint8_t *base, uint64_t bytes)
{
	memset(base, 0x5a, bytes);
	guest->guest = (struct cow_guest){ .base = base, .fetch = fetch, .store = store };
	guest->pages = pages;
}

uint8_t *memory_gather(const struct cow_io *io, uint64_t bytes)
{
	uint8_t *data = malloc(bytes ? bytes : 1);
	uint64_t at = 0;
	cow_assert(data && bytes <= memory_rest_bytes(io));
	for (unsigned i = 0; i < io->nr_vec && at < bytes; i++) {
		uint64_t n = cow_min(io->vec[i].iov_len, bytes - at);
		memcpy(data + at, memory_place(io, i), n);
		at += n;
	}
	cow_assert(at == bytes);
	return data;
}

static int64_t do_read(const struct cow_io *io, uint64_t bytes)
{
	const struct memory_content *c = &memory_file_of(io->file)->now;
	uint64_t off = memory_rest_offset(io);
	bytes = cow_min(bytes, c->size_bytes > off ? c->size_bytes - off : 0);
	uint64_t end = off + bytes;
	for (unsigned i = 0; i < io->nr_vec && off < end; i++) {
		uint64_t n = cow_min(io->vec[i].iov_len, end - off);
		memory_content_read(c, off, memory_place(io, i), n);
		off += n;
	}
	return (int64_t)bytes;
}

static int64_t do_write(const struct cow_io *io, uint64_t bytes, const void *owner)
{
	struct memory_file *f = memory_file_of(io->file);
	uint64_t off = memory_rest_offset(io), rest = memory_rest_bytes(io);
	if (f->fixed && (off > f->now.size_bytes || rest > f->now.size_bytes - off))
		return -ENOSPC;
	if (off > f->now.capacity_bytes || rest > f->now.capacity_bytes - off)
		return -EFBIG;
	memory_file_give(f, off, memory_gather(io, bytes), bytes, owner);
	return (int64_t)bytes;
}

static int64_t do_resize(const struct cow_io *io, const void *owner)
{
	struct memory_file *f = memory_file_of(io->file);
	if (f->fixed)
		return -ENOTSUP;
	if (io->offset > f->now.capacity_bytes)
		return -EFBIG;
	memory_file_resize(f, io->offset, owner);
	return 0;
}

int64_t memory_perform(const struct cow_io *io, uint64_t bytes, const void *owner)
{
	switch (io->kind) {
	case COW_IO_READ:
		return do_read(io, bytes);
	case COW_IO_WRITE:
		return do_write(io, bytes, owner);
	case COW_IO_PUNCH:
		memory_file_punch(memory_file_of(io->file), io->offset, io->length, owner);
		return 0;
	case COW_IO_RESIZE:
		return do_resize(io, owner);
	case COW_IO_SYNC:
	case COW_IO_TIMER:
		break;
	}
	return -EINVAL;
}
