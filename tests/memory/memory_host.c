/* SPDX-License-Identifier: MIT */
#include "tests/memory/memory_host.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/container.h"
#include "engine/base/math.h"

static struct memory_host *of_loop(struct cow_loop *loop)
{
	return cow_container_of(loop, struct memory_host, loop);
}

/* ---- the file ---- */

uint64_t memory_size(const struct memory_host *m)
{
	return m->file->now.size_bytes;
}

void memory_set_size(struct memory_host *m, uint64_t size)
{
	memory_content_resize(&m->file->now, size);
	m->self.file.size_bytes = size;
}

void memory_put(struct memory_host *m, uint64_t offset, const void *bytes, uint64_t length)
{
	memory_content_write(&m->file->now, offset, bytes, length);
	m->self.file.size_bytes = memory_size(m);
}

void memory_fill(struct memory_host *m, uint64_t offset, uint8_t value, uint64_t length)
{
	uint8_t *bytes = malloc(length);
	cow_assert(bytes);
	memset(bytes, value, length);
	memory_put(m, offset, bytes, length);
	free(bytes);
}

void memory_restore(struct memory_host *m, const struct memory_content *kept)
{
	memory_file_replace(m->file, kept);
	m->self.file.size_bytes = memory_size(m);
}

void memory_keep_changes(struct memory_host *m)
{
	m->disk.volatile_cache = true;
	memory_file_settle(m->file);
}

void memory_power_off_after(struct memory_host *m, unsigned nr_changes)
{
	m->power_left = nr_changes;
}

void memory_power_on(struct memory_host *m)
{
	memory_disk_crash(&m->disk, MEMORY_CRASH_POWER);
	m->self.file.size_bytes = memory_size(m);
	m->powered_off = false;
	m->power_left = UINT_MAX;
}

static bool is_full(const struct memory_host *m, const struct cow_io *io)
{
	const struct memory_content *c = &memory_file_of(io->file)->now;
	uint64_t new = memory_content_new_bytes(c, memory_rest_offset(io), memory_rest_bytes(io));
	return new && (c->used_bytes > m->limit || new > m->limit - c->used_bytes);
}

/* ---- the loop ---- */

/* Of any length, never full. */
static int64_t make_up(struct memory_host *m, const struct cow_io *io)
{
	uint64_t *size = &m->file->now.size_bytes;
	if (io->kind == COW_IO_RESIZE)
		*size = io->offset;
	if (io->kind > COW_IO_WRITE)
		return 0;
	if (io->kind == COW_IO_WRITE)
		*size = cow_max(*size, io->offset + io->length);
	m->content(m->ctx, io);
	return (int64_t)io->length;
}

/* Of a READ or WRITE its first bytes. */
static int64_t execute(struct memory_host *m, const struct cow_io *io, uint64_t bytes)
{
	if (io->kind == COW_IO_TIMER) {
		m->clock_ns += io->offset;
		return 0;
	}
	if (m->content)
		return make_up(m, io);
	if (io->kind == COW_IO_SYNC) {
		memory_file_sync(memory_file_of(io->file), MEMORY_NOT_DELIVERED);
		return 0;
	}
	if (io->kind == COW_IO_WRITE && !memory_file_of(io->file)->fixed && is_full(m, io))
		return -ENOSPC;
	int64_t ret = memory_perform(io, bytes, io);
	memory_file_delivered(memory_file_of(io->file), io);
	m->self.file.size_bytes = memory_size(m);
	return ret;
}

/* Just now, or before. */
static bool has_no_power(struct memory_host *m, const struct cow_io *io)
{
	bool changes = io->kind != COW_IO_READ && io->kind != COW_IO_TIMER;
	m->powered_off |= changes && !m->power_left;
	m->power_left -= changes && m->power_left;
	return m->powered_off && io->kind != COW_IO_TIMER;
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
	int64_t ret = has_no_power(m, io) ? -EIO : planned_fault(m, io);
	if (ret < 0)
		return ret;
	if (m->trace && m->nr_trace < MEMORY_MAX_TRACE)
		m->trace[m->nr_trace++] = (struct memory_event){ io->kind, io->offset, io->length };
	if (m->hook)
		m->hook(m->ctx, io);
	uint64_t rest = memory_rest_bytes(io);
	ret = execute(m, io, ret ? cow_min((uint64_t)ret, rest) : rest);
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
	memory_disk_init(&m->disk, capacity);
	m->disk.one_file = true;
	m->file = memory_disk_create(&m->disk, "/image");
	m->bytes = m->file->now.bytes;
	m->limit = UINT64_MAX;
	m->power_left = UINT_MAX;
	m->tail = &m->head;
	m->self.of = m->file;
	m->self.file.path = m->file->path;
	m->self.file.writable = true;
	memory_put(m, 0, bytes, size);
	cow_loop_init(&m->loop, &loop_ops);
	return 0;
}

void memory_host_fini(struct memory_host *m)
{
	memory_disk_fini(&m->disk);
	free(m->trace);
	m->bytes = NULL;
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
