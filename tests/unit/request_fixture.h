/* SPDX-License-Identifier: MIT */
/*
 * Requests on an image on a host in memory, which can be stopped in between: what step are they at,
 * what does the file hold.
 */
#ifndef COW_TEST_REQUEST_FIXTURE_H
#define COW_TEST_REQUEST_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/check/check.h"
#include "engine/create/create.h"
#include "engine/format/format.h"
#include "engine/format/map.h"
#include "engine/life/image.h"
#include "engine/request/inspect.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "engine/snapshot/snapshot.h"
#include "tests/memory/memory_host.h"
#include "tests/unit/disk_fixture.h"

#define CLUSTER 65536u
#define SIZE_BYTES (16u << 20)
#define NR_OPS 4u
#define MAX_BYTES (1u << 20) /* of a request */
#define PENDING 1
#define ROUNDS 3000u /* of the loop, in which all that can happen has happened */

struct fixture {
	struct memory_host *m;
	struct cow_image *image;
	struct cow_queue *queue;
	struct cow_open_options options;
	uint8_t *bufs[NR_OPS], *read;
	int results[NR_OPS];
};

/* ---- image ---- */

static inline void create_image(struct fixture *f, uint32_t cluster_bytes, uint64_t size_bytes)
{
	struct cow_create_options create = { .size_bytes = size_bytes,
					     .has_size = true,
					     .overwrite = true,
					     .cluster_bytes = cluster_bytes };
	struct cow_error err = { 0 };
	if (cow_create(&f->m->host, &f->m->loop, "/disk", &create, &err))
		fail_msg("create: %s", err.text);
}

static inline void open_image(struct fixture *f)
{
	struct cow_error err = { 0 };
	if (cow_image_open(&f->m->host, &f->m->loop, "/disk", &f->options, &f->image, &err))
		fail_msg("open: %s", err.text);
	assert_int_equal(cow_queue_new(f->image, &f->m->loop, NR_OPS, &f->queue), 0);
}

static inline void close_image(struct fixture *f)
{
	struct cow_error err = { 0 };
	cow_queue_free(f->queue);
	if (cow_image_close(f->image, &f->m->loop, &err))
		fail_msg("close: %s", err.text);
	f->image = NULL;
}

static inline struct cow_file *open_file(struct fixture *f)
{
	struct cow_file *file;
	assert_int_equal(f->m->host.ops->open(&f->m->host, "/disk", COW_OPEN_WRITE, &file, NULL),
			 0);
	return file;
}

/* All that was written is shared from now on. */
static inline void take_snapshot(struct fixture *f)
{
	const struct cow_snapshot_date date = { 0 };
	struct cow_error err = { 0 };
	close_image(f);
	struct cow_file *file = open_file(f);
	if (cow_snapshot_create(&f->m->loop, file, "one", &date, NULL, &err))
		fail_msg("snapshot: %s", err.text);
	f->m->host.ops->close(file);
	open_image(f);
}

static inline void expect_clean(struct fixture *f)
{
	disk_expect_clean(f->m);
}

static inline int request_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->m = memory_host_new();
	cow_loop_enter(&f->m->loop);
	for (unsigned i = 0; i < NR_OPS; i++)
		f->bufs[i] = cow_buf_alloc(MAX_BYTES);
	f->read = cow_buf_alloc(MAX_BYTES);
	f->options.writable = true;
	create_image(f, CLUSTER, SIZE_BYTES);
	open_image(f);
	*state = f;
	return 0;
}

static inline void request_end(struct fixture *f)
{
	cow_loop_enter(NULL);
	for (unsigned i = 0; i < NR_OPS; i++)
		free(f->bufs[i]);
	free(f->read);
	memory_host_free(f->m);
	free(f);
}

/* Whatever was done, the image is sound. */
static inline int request_teardown(void **state)
{
	struct fixture *f = *state;
	while (f->m->held) /* of a test that failed */
		memory_let_go(f->m, f->m->held->length);
	if (f->image)
		close_image(f);
	expect_clean(f);
	request_end(f);
	return 0;
}

/* ---- requests ---- */

static inline void run(struct fixture *f)
{
	for (unsigned i = 0; i < ROUNDS; i++)
		COW_IGNORE(cow_loop_poll(&f->m->loop));
}

static inline void note_result(void *ctx, int result)
{
	*(int *)ctx = result;
}

/* Request idx, of bytes with this value where it has some. */
static inline void start(struct fixture *f, unsigned idx, enum cow_op_kind kind, unsigned flags,
			 uint64_t off, uint64_t length, int value)
{
	bool has_buf = kind == COW_OP_WRITE || kind == COW_OP_READ;
	f->results[idx] = PENDING;
	memset(f->bufs[idx], value, has_buf ? length : 0);
	cow_queue_submit(f->queue, idx, kind, flags, off, length, has_buf ? f->bufs[idx] : NULL,
			 note_result, &f->results[idx]);
}

/* Where request idx stands still, and for what (NULL: host I/O). */
static inline void expect_at(struct fixture *f, unsigned idx, const char *step, const char *what)
{
	struct cow_inspected at;
	run(f);
	assert_int_equal(f->results[idx], PENDING);
	assert_true(cow_inspect(f->queue, idx, &at));
	assert_string_equal(at.step, step);
	if (what && at.waits_for)
		assert_string_equal(at.waits_for, what);
	else
		assert_true(!what && !at.waits_for);
}

static inline void expect_result(struct fixture *f, unsigned idx, int result)
{
	run(f);
	assert_int_equal(f->results[idx], result);
}

static inline void write_bytes(struct fixture *f, uint64_t off, uint64_t length, int value)
{
	start(f, 0, COW_OP_WRITE, 0, off, length, value);
	expect_result(f, 0, 0);
}

static inline void flush(struct fixture *f)
{
	assert_int_equal(cow_queue_do(f->queue, COW_OP_FLUSH, 0, 0, 0, NULL), 0);
}

/* Durable, and what was freed is released. */
static inline void settle(struct fixture *f)
{
	flush(f);
	run(f);
	flush(f);
}

static inline void expect_bytes(struct fixture *f, uint64_t off, uint64_t length, int value)
{
	assert_int_equal(cow_queue_do(f->queue, COW_OP_READ, 0, off, length, f->read), 0);
	for (uint64_t i = 0; i < length; i++)
		if (f->read[i] != value)
			fail_msg("%d instead of %d at offset %llu", f->read[i], value,
				 (unsigned long long)(off + i));
}

/* ---- the file ---- */

static inline struct cow_header header_of(const struct fixture *f)
{
	struct cow_header h;
	assert_int_equal(cow_header_decode(f->m->bytes, 4096, &h, NULL), 0);
	return h;
}

/* The L2 entry of guest offset off; 0 without a table. */
static inline uint64_t entry_of(const struct fixture *f, uint64_t off)
{
	struct cow_header h = header_of(f);
	uint64_t cluster = off >> h.cluster_bits, per_table = cow_l2_entries(&h);
	uint64_t table =
		cow_load64_be(f->m->bytes + h.l1_off + cluster / per_table * 8) & QCOW2_OFFSET_MASK;
	return table ? cow_load64_be(f->m->bytes + table + cluster % per_table * 8) : 0;
}

static inline uint64_t host_of(const struct fixture *f, uint64_t off)
{
	return entry_of(f, off) & QCOW2_OFFSET_MASK;
}

static inline uint64_t refcount_at(const struct fixture *f, uint64_t host)
{
	struct cow_header h = header_of(f);
	uint64_t cluster = host >> h.cluster_bits;
	uint64_t per_block = (8ull << h.cluster_bits) >> h.refcount_order;
	uint64_t block = cow_load64_be(f->m->bytes + h.reftable_off + cluster / per_block * 8);
	return block ? cow_refcount_get(f->m->bytes + block, h.refcount_order, cluster % per_block)
		     : 0;
}

static inline void expect_file(const struct fixture *f, uint64_t host, uint64_t length, int value)
{
	for (uint64_t i = 0; i < length; i++)
		assert_int_equal(f->m->bytes[host + i], value);
}

/*
 * A write into the second cluster, which has its host cluster, is overtaken by zeros over all of it; whoever
 * writes there next fills the cluster anew, but not before the first write is done.
 */
static inline void overtake_write(struct fixture *f)
{
	f->m->hold_bytes = 1024;
	start(f, 0, COW_OP_WRITE, 0, CLUSTER + 8192, 1024, 5);
	start(f, 1, COW_OP_WRITE_ZEROES, COW_OP_NOUNMAP, CLUSTER, CLUSTER, 0);
	expect_result(f, 1, 0);
	expect_bytes(f, CLUSTER + 8192, 1024, 0);
	start(f, 2, COW_OP_WRITE, 0, CLUSTER + 8192 + 1024, 512, 6);
	expect_at(f, 2, "copy: quiet", "requests of an old epoch");
	memory_let_go(f->m, 1024);
	expect_result(f, 0, 0);
	expect_result(f, 2, 0);
}

#endif
