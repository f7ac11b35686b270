/* SPDX-License-Identifier: MIT */
#include "tests/memory/memory_host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/container.h"

static struct memory_host *of_loop(struct cow_loop *loop)
{
	return cow_container_of(loop, struct memory_host, loop);
}

/* ---- the name space ---- */

static int host_open(struct cow_host *host, const char *path, unsigned flags, struct cow_file **out,
		     struct cow_error *err)
{
	struct memory_host *m = (struct memory_host *)host;
	struct memory_handle *h = calloc(1, sizeof(*h));
	cow_assert(h);
	h->host = m;
	h->file.host = host;
	h->file.path = strdup(path);
	h->file.ino = 1;
	h->file.size_bytes = m->size;
	h->file.writable = flags & COW_OPEN_WRITE;
	h->file.can_punch = true;
	h->file.block_device = m->block_device;
	*out = &h->file;
	return 0;
}

static void host_close(struct cow_file *file)
{
	free(file->path);
	free(file);
}

static int host_realpath(struct cow_host *host, const char *path, char **out)
{
	*out = strdup(path);
	return *out ? 0 : -ENOMEM;
}

static const struct cow_host_ops host_ops = {
	.open = host_open,
	.close = host_close,
	.realpath = host_realpath,
};

/* ---- the file ---- */

void memory_set_size(struct memory_host *m, uint64_t size)
{
	m->size = size;
	m->self.file.size_bytes = size;
}

/* Space in use for [at, end), as a sparse file takes it. False: the host is full. */
static bool take(struct memory_host *m, uint64_t at, uint64_t end)
{
	for (uint64_t b = at / MEMORY_BLOCK_BYTES; b * MEMORY_BLOCK_BYTES < end; b++) {
		if (m->in_use[b])
			continue;
		if (m->limit < MEMORY_BLOCK_BYTES || m->used > m->limit - MEMORY_BLOCK_BYTES)
			return false;
		m->in_use[b] = 1;
		m->used += MEMORY_BLOCK_BYTES;
	}
	return true;
}

/* Zeros, and whole blocks are not in use any more. */
static void give(struct memory_host *m, uint64_t at, uint64_t end)
{
	uint64_t first = (at + MEMORY_BLOCK_BYTES - 1) / MEMORY_BLOCK_BYTES;
	for (uint64_t b = first; b < end / MEMORY_BLOCK_BYTES; b++) {
		m->used -= m->in_use[b] ? MEMORY_BLOCK_BYTES : 0;
		m->in_use[b] = 0;
	}
	memset(m->bytes + at, 0, end - at);
}

static int64_t do_read(struct memory_host *m, const struct cow_io *io)
{
	uint64_t off = io->offset + io->progress_bytes;
	for (unsigned i = 0; i < io->nr_vec; off += io->vec[i++].iov_len) {
		uint64_t left = off < m->size ? m->size - off : 0;
		uint64_t n = left < io->vec[i].iov_len ? left : io->vec[i].iov_len;
		if (n)
			memcpy(io->vec[i].iov_base, m->bytes + off, n);
		memset((char *)io->vec[i].iov_base + n, 0, io->vec[i].iov_len - n);
	}
	return (int64_t)(io->length - io->progress_bytes);
}

static int64_t do_write(struct memory_host *m, const struct cow_io *io)
{
	uint64_t off = io->offset + io->progress_bytes, length = io->length - io->progress_bytes;
	if (m->block_device && (off > m->size || length > m->size - off))
		return -ENOSPC;
	if (off > m->capacity || length > m->capacity - off)
		return -EFBIG;
	if (!m->block_device && !take(m, off, off + length))
		return -ENOSPC;
	for (unsigned i = 0; i < io->nr_vec; off += io->vec[i++].iov_len)
		memcpy(m->bytes + off, io->vec[i].iov_base, io->vec[i].iov_len);
	if (off > m->size)
		memory_set_size(m, off);
	return (int64_t)length;
}

static int64_t do_punch(struct memory_host *m, const struct cow_io *io)
{
	if (io->offset < m->size)
		give(m, io->offset,
		     io->length < m->size - io->offset ? io->offset + io->length : m->size);
	return 0;
}

static int64_t do_resize(struct memory_host *m, uint64_t size)
{
	if (m->block_device)
		return -ENOTSUP;
	if (size > m->capacity)
		return -EFBIG;
	if (size < m->size)
		give(m, size, m->size);
	memory_set_size(m, size);
	return 0;
}

/* ---- the loop ---- */

/* Of any length, never full. */
static int64_t make_up(struct memory_host *m, const struct cow_io *io)
{
	if (io->kind > COW_IO_WRITE)
		return 0;
	m->content(m->ctx, io);
	return (int64_t)io->length;
}

/* The loop is one host's, the file may be another's. */
static int64_t execute(struct memory_host *loops, const struct cow_io *io)
{
	struct memory_host *m = io->file ? ((struct memory_handle *)io->file)->host : loops;
	if (m->content && io->kind != COW_IO_TIMER)
		return make_up(m, io);
	switch (io->kind) {
	case COW_IO_READ:
		return do_read(m, io);
	case COW_IO_WRITE:
		return do_write(m, io);
	case COW_IO_PUNCH:
		return do_punch(m, io);
	case COW_IO_RESIZE:
		return do_resize(m, io->offset);
	case COW_IO_TIMER:
		loops->clock_ns += io->offset;
		return 0;
	case COW_IO_SYNC:
		return 0;
	}
	return -EINVAL;
}

/* Of a transfer in one piece its first bytes. */
static int64_t execute_part(struct memory_host *m, const struct cow_io *io, uint64_t bytes)
{
	struct cow_io part = *io;
	uint64_t left = io->length - io->progress_bytes;
	if (io->kind > COW_IO_WRITE || io->nr_vec != 1 || bytes >= left)
		return execute(m, io);
	part.length = io->progress_bytes + bytes;
	part.vec[0].iov_len = bytes;
	return execute(m, &part);
}

/* 0, or what the host says instead. */
static int64_t planned_fault(struct memory_host *m, const struct cow_io *io)
{
	if (!m->fail_error || m->fail_kind != io->kind || m->fail_skip--)
		return m->fault ? m->fault(m->ctx, io) : 0;
	int error = m->fail_error;
	if (!m->fail_more)
		m->fail_error = 0;
	else
		m->fail_more--;
	m->fail_skip = 0;
	return error;
}

static int64_t perform(struct memory_host *m, const struct cow_io *io)
{
	int64_t ret = planned_fault(m, io);
	if (ret < 0)
		return ret;
	if (m->trace && m->nr_trace < MEMORY_MAX_TRACE)
		m->trace[m->nr_trace++] = (struct memory_event){ io->kind, io->offset, io->length };
	if (m->hook)
		m->hook(m->ctx, io);
	ret = ret ? execute_part(m, io, (uint64_t)ret) : execute(m, io);
	if (m->changed && ret >= 0 && io->kind != COW_IO_READ)
		m->changed(m->ctx, io);
	return ret;
}

static void loop_start(struct cow_loop *loop, struct cow_io *io)
{
	struct memory_host *m = of_loop(loop);
	io->next = NULL;
	*m->tail = io;
	m->tail = &io->next;
}

void memory_let_go(struct memory_host *m, uint64_t bytes)
{
	struct cow_io **link = &m->held;
	m->hold_bytes = 0;
	while (*link) {
		struct cow_io *io = *link;
		if (io->length != bytes) {
			link = &io->next;
			continue;
		}
		*link = io->next;
		loop_start(&m->loop, io);
	}
}

static int loop_drain(struct cow_loop *loop, bool wait)
{
	struct memory_host *m = of_loop(loop);
	while (m->head) {
		struct cow_io *io = m->head;
		m->head = io->next;
		if (!m->head)
			m->tail = &m->head;
		if (m->hold_bytes && io->length == m->hold_bytes) {
			io->next = m->held;
			m->held = io;
			continue;
		}
		cow_io_raw_done(io, perform(m, io));
	}
	return 0;
}

static void loop_wake(struct cow_loop *loop)
{
}

static uint64_t loop_now(struct cow_loop *loop)
{
	return of_loop(loop)->clock_ns;
}

static void loop_free(struct cow_loop *loop)
{
}

static const struct cow_loop_ops loop_ops = {
	.start = loop_start,
	.drain = loop_drain,
	.wake = loop_wake,
	.now = loop_now,
	.free = loop_free,
};

/* ---- set-up ---- */

int memory_host_init(struct memory_host *m, const uint8_t *bytes, uint64_t size, uint64_t capacity)
{
	memset(m, 0, sizeof(*m));
	m->host.ops = &host_ops;
	m->bytes = calloc(1, capacity);
	m->in_use = calloc(capacity / MEMORY_BLOCK_BYTES + 1, 1);
	if (!m->bytes || !m->in_use) {
		memory_host_fini(m);
		return -ENOMEM;
	}
	if (bytes && size)
		memcpy(m->bytes, bytes, size);
	m->capacity = capacity;
	m->limit = UINT64_MAX;
	m->tail = &m->head;
	m->self.host = m;
	m->self.file.path = (char *)(uintptr_t) "memory";
	m->self.file.writable = true;
	memory_set_size(m, size);
	cow_loop_init(&m->loop, &loop_ops);
	return 0;
}

void memory_host_fini(struct memory_host *m)
{
	free(m->bytes);
	free(m->in_use);
	free(m->trace);
	m->bytes = m->in_use = NULL;
	m->trace = NULL;
}

struct memory_host *memory_host_new(void)
{
	struct memory_host *m = malloc(sizeof(*m));
	cow_assert(m && !memory_host_init(m, NULL, 0, MEMORY_MAX_BYTES));
	m->trace = calloc(MEMORY_MAX_TRACE, sizeof(*m->trace));
	cow_assert(m->trace);
	m->limit = MEMORY_MAX_BYTES;
	return m;
}

void memory_host_free(struct memory_host *m)
{
	memory_host_fini(m);
	free(m);
}
