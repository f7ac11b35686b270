/* SPDX-License-Identifier: MIT */
/*
 * A host of one file in memory and a loop on it that keeps a trace of all that was done and can be
 * told to fail. For tests of the order of writes. Single-threaded: everything queued is done, in
 * order, by the next drain.
 */
#ifndef COW_TEST_MEMORY_HOST_H
#define COW_TEST_MEMORY_HOST_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/loop/loop.h"

#define MEMORY_MAX_BYTES (64u << 20)
#define MEMORY_BLOCK_BYTES 4096u
#define MEMORY_MAX_TRACE 65536u

struct memory_event {
	enum cow_io_kind kind;
	uint64_t offset, length;
};

struct memory_host {
	struct cow_host host;
	struct cow_loop loop;
	uint8_t *bytes;
	uint64_t size;
	uint64_t limit; /* the host is full when this many bytes are in use */
	uint64_t used;
	uint8_t *in_use;   /* per block */
	bool block_device; /* of `size` bytes */
	struct memory_event *trace;
	unsigned nr_trace;
	struct cow_io *head, **tail;
	uint64_t clock_ns;
	/* the next `fail_skip` I/Os of this kind succeed, then one fails */
	int fail_error;
	enum cow_io_kind fail_kind;
	unsigned fail_skip;
	unsigned fail_more; /* and so many more after it */
	/* I/Os of this length stay where they are until memory_let_go(); 0: none */
	uint64_t hold_bytes;
	struct cow_io *held;
	/* may be NULL; sees each I/O that is done */
	void (*hook)(void *ctx, const struct cow_io *io);
	void *ctx;
};

static struct memory_host *memory_of_loop(struct cow_loop *loop)
{
	return (struct memory_host *)((char *)loop - offsetof(struct memory_host, loop));
}

/* ---- the file ---- */

static int memory_open(struct cow_host *host, const char *path, unsigned flags,
		       struct cow_file **out, struct cow_error *err)
{
	struct memory_host *m = (struct memory_host *)host;
	struct cow_file *file = calloc(1, sizeof(*file));
	file->host = host;
	file->path = strdup(path);
	file->ino = 1;
	file->size_bytes = m->size;
	file->writable = flags & COW_OPEN_WRITE;
	file->can_punch = true;
	file->block_device = m->block_device;
	*out = file;
	return 0;
}

static void memory_close(struct cow_file *file)
{
	free(file->path);
	free(file);
}

static int memory_realpath(struct cow_host *host, const char *path, char **out)
{
	*out = strdup(path);
	return *out ? 0 : -ENOMEM;
}

static const struct cow_host_ops memory_host_ops = {
	.open = memory_open,
	.close = memory_close,
	.realpath = memory_realpath,
};

/* ---- the loop ---- */

static void memory_start(struct cow_loop *loop, struct cow_io *io)
{
	struct memory_host *m = memory_of_loop(loop);
	io->next = NULL;
	*m->tail = io;
	m->tail = &io->next;
}

/* The held I/Os of this length, too, are done by the next drain. */
static inline void memory_let_go(struct memory_host *m, uint64_t bytes)
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
		memory_start(&m->loop, io);
	}
}

/* Space in use for [at, end), as a sparse file takes it. False: the host is full. */
static bool memory_take(struct memory_host *m, uint64_t at, uint64_t end)
{
	for (uint64_t b = at / MEMORY_BLOCK_BYTES; b * MEMORY_BLOCK_BYTES < end; b++) {
		if (m->in_use[b])
			continue;
		if (m->used + MEMORY_BLOCK_BYTES > m->limit)
			return false;
		m->in_use[b] = 1;
		m->used += MEMORY_BLOCK_BYTES;
	}
	return true;
}

static void memory_give(struct memory_host *m, uint64_t at, uint64_t end)
{
	for (uint64_t b = at / MEMORY_BLOCK_BYTES; b < end / MEMORY_BLOCK_BYTES; b++) {
		m->used -= m->in_use[b] ? MEMORY_BLOCK_BYTES : 0;
		m->in_use[b] = 0;
	}
	memset(m->bytes + at, 0, end - at);
}

static int64_t memory_transfer(struct memory_host *m, struct cow_io *io)
{
	uint64_t at = io->offset;
	if (at + io->length > MEMORY_MAX_BYTES && io->kind == COW_IO_READ)
		return 0;
	if (io->kind == COW_IO_WRITE &&
	    at + io->length > (m->block_device ? m->size : MEMORY_MAX_BYTES))
		return -ENOSPC;
	if (io->kind == COW_IO_WRITE && !m->block_device && !memory_take(m, at, at + io->length))
		return -ENOSPC;
	for (unsigned i = 0; i < io->nr_vec; i++) {
		if (io->kind == COW_IO_READ)
			memcpy(io->vec[i].iov_base, m->bytes + at, io->vec[i].iov_len);
		else
			memcpy(m->bytes + at, io->vec[i].iov_base, io->vec[i].iov_len);
		at += io->vec[i].iov_len;
	}
	if (io->kind == COW_IO_WRITE && at > m->size)
		m->size = at;
	return (int64_t)io->length;
}

static int64_t memory_do(struct memory_host *m, struct cow_io *io)
{
	if (m->fail_error && m->fail_kind == io->kind && !m->fail_skip--) {
		int error = m->fail_error;
		if (!m->fail_more)
			m->fail_error = 0;
		else
			m->fail_more--;
		m->fail_skip = 0;
		return error;
	}
	if (m->nr_trace < MEMORY_MAX_TRACE)
		m->trace[m->nr_trace++] = (struct memory_event){ io->kind, io->offset, io->length };
	if (m->hook)
		m->hook(m->ctx, io);
	switch (io->kind) {
	case COW_IO_READ:
	case COW_IO_WRITE:
		return memory_transfer(m, io);
	case COW_IO_PUNCH:
		memory_give(m, io->offset, io->offset + io->length);
		return 0;
	case COW_IO_RESIZE:
		if (m->block_device)
			return -ENOTSUP;
		if (io->offset > MEMORY_MAX_BYTES)
			return -EFBIG;
		if (io->offset < m->size)
			memory_give(m, io->offset, m->size);
		m->size = io->offset;
		return 0;
	case COW_IO_TIMER:
		m->clock_ns += io->offset;
		return 0;
	case COW_IO_SYNC:
		return 0;
	}
	return -EINVAL;
}

static int memory_drain(struct cow_loop *loop, bool wait)
{
	struct memory_host *m = memory_of_loop(loop);
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
		cow_io_raw_done(io, memory_do(m, io));
	}
	return 0;
}

static void memory_wake(struct cow_loop *loop)
{
}

static uint64_t memory_now(struct cow_loop *loop)
{
	return memory_of_loop(loop)->clock_ns;
}

static void memory_free(struct cow_loop *loop)
{
}

static const struct cow_loop_ops memory_loop_ops = { memory_start, memory_drain, memory_wake,
						     memory_now, memory_free };

static struct memory_host *memory_host_new(void)
{
	struct memory_host *m = calloc(1, sizeof(*m));
	m->host.ops = &memory_host_ops;
	m->bytes = calloc(1, MEMORY_MAX_BYTES);
	m->trace = calloc(MEMORY_MAX_TRACE, sizeof(*m->trace));
	m->tail = &m->head;
	m->limit = MEMORY_MAX_BYTES;
	m->in_use = calloc(MEMORY_MAX_BYTES / MEMORY_BLOCK_BYTES, 1);
	cow_loop_init(&m->loop, &memory_loop_ops);
	return m;
}

static void memory_host_free(struct memory_host *m)
{
	free(m->trace);
	free(m->in_use);
	free(m->bytes);
	free(m);
}

#endif
