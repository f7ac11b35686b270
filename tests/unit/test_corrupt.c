/* SPDX-License-Identifier: MIT */
/*
 * Corruption that a request meets at run time, one row for each rule and kind of entry. The request
 * fails with EIO; the image is failed for writing, with rule and offset; sound clusters can be
 * read; the corrupt bit is on disk after the close.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/create/create.h"
#include "engine/format/format.h"
#include "engine/life/image.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "tests/memory/memory_host.h"

#define CLUSTER 512u
#define SPAN (CLUSTER / 8 * CLUSTER) /* guest bytes that one L2 table maps */
#define SOUND SPAN		     /* a guest offset whose mapping stays as it is */
#define FRESH (2 * SPAN)	     /* one that nobody has written yet */
#define FAR (1ull << 40)

struct fixture {
	struct memory_host *m;
	struct cow_header h;
	uint64_t l2;	   /* the first table */
	uint64_t refblock; /* the first block */
	struct cow_image *image;
	struct cow_queue *queue;
	uint8_t *buf;
};

/* What is broken, and where the rule is told to be broken. */
struct row {
	const char *name;
	uint64_t (*breaks)(struct fixture *f);
	enum cow_op_kind kind;
	uint64_t offset; /* of the request, in the guest */
	const char *rule;
	bool late; /* met when what was freed is given back, after the request */
};

static uint64_t put(struct fixture *f, uint64_t at, uint64_t value)
{
	cow_store64_be(f->m->bytes + at, value);
	return at;
}

static uint64_t get(const struct fixture *f, uint64_t at)
{
	return cow_load64_be(f->m->bytes + at);
}

/* ---- L1 ---- */

static uint64_t l1_reserved(struct fixture *f)
{
	return put(f, f->h.l1_off, get(f, f->h.l1_off) | 2);
}

static uint64_t l1_copied_alone(struct fixture *f)
{
	return put(f, f->h.l1_off, QCOW2_COPIED);
}

/* ---- L2 ---- */

static uint64_t l2_reserved(struct fixture *f)
{
	return put(f, f->l2, get(f, f->l2) | 2);
}

static uint64_t l2_past_end(struct fixture *f)
{
	return put(f, f->l2, FAR | QCOW2_COPIED);
}

static uint64_t l2_written_past_end(struct fixture *f)
{
	put(f, f->l2, FAR | QCOW2_COPIED);
	return FAR;
}

static uint64_t l2_over_reftable(struct fixture *f)
{
	put(f, f->l2, f->h.reftable_off | QCOW2_COPIED);
	return f->h.reftable_off;
}

static uint64_t compressed_copied(struct fixture *f)
{
	return put(f, f->l2, QCOW2_COMPRESSED | QCOW2_COPIED | f->l2);
}

static uint64_t compressed_past_end(struct fixture *f)
{
	return put(f, f->l2, QCOW2_COMPRESSED | FAR);
}

static uint64_t compressed_over_header(struct fixture *f)
{
	return put(f, f->l2, QCOW2_COMPRESSED | 8);
}

/* ---- refcounts ---- */

static uint64_t reftable_reserved(struct fixture *f)
{
	return put(f, f->h.reftable_off, f->refblock | 8);
}

static uint64_t reftable_past_end(struct fixture *f)
{
	return put(f, f->h.reftable_off, FAR);
}

/* The block would be made anew where it always lies: in the first cluster that it counts. */
static uint64_t reftable_missing(struct fixture *f)
{
	put(f, f->h.reftable_off, 0);
	return 0;
}

static uint64_t refcounts_zero(struct fixture *f)
{
	memset(f->m->bytes + f->refblock, 0, CLUSTER);
	return f->h.reftable_off;
}

static uint64_t data_refcount_zero(struct fixture *f)
{
	uint64_t off = get(f, f->l2) & QCOW2_OFFSET_MASK;
	cow_refcount_set(f->m->bytes + f->refblock, f->h.refcount_order, off / CLUSTER, 0);
	return off;
}

static uint64_t no_refcount(struct fixture *f)
{
	put(f, f->h.reftable_off, 0);
	return get(f, f->l2) & QCOW2_OFFSET_MASK;
}

static const struct row rows[] = {
	{ "L1: reserved bits, read", l1_reserved, COW_OP_READ, 0, "L1 entry has reserved bits set",
	  false },
	{ "L1: reserved bits, written", l1_reserved, COW_OP_WRITE, 0,
	  "L1 entry has reserved bits set", false },
	{ "L1: reserved bits, discarded", l1_reserved, COW_OP_DISCARD, 0,
	  "L1 entry has reserved bits set", false },
	{ "L1: COPIED alone, read", l1_copied_alone, COW_OP_READ, 0,
	  "L1 entry has the COPIED flag without a table", false },
	{ "L2: reserved bits, read", l2_reserved, COW_OP_READ, 0, "L2 entry has reserved bits set",
	  false },
	{ "L2: reserved bits, written", l2_reserved, COW_OP_WRITE, 0,
	  "L2 entry has reserved bits set", false },
	{ "L2: reserved bits, discarded", l2_reserved, COW_OP_DISCARD, 0,
	  "L2 entry has reserved bits set", false },
	{ "L2: past the end, read", l2_past_end, COW_OP_READ, 0,
	  "L2 entry's cluster lies past the end of the file", false },
	{ "L2: past the end, written", l2_written_past_end, COW_OP_WRITE, 0,
	  "a data cluster lies past the end of the file", false },
	{ "L2: the refcount table, written", l2_over_reftable, COW_OP_WRITE, 0,
	  "a data cluster lies in metadata", false },
	{ "L2: the refcount table, discarded", l2_over_reftable, COW_OP_DISCARD, 0,
	  "live metadata was freed as if it were data", true },
	{ "compressed: COPIED, read", compressed_copied, COW_OP_READ, 0,
	  "L2 entry is compressed and has the COPIED flag", false },
	{ "compressed: past the end, read", compressed_past_end, COW_OP_READ, 0,
	  "L2 entry's compressed data lies past the end of the file", false },
	{ "compressed: over the header, read", compressed_over_header, COW_OP_READ, 0,
	  "L2 entry's compressed data lies over the header", false },
	{ "refcount table: reserved bits, for a new cluster", reftable_reserved, COW_OP_WRITE,
	  FRESH, "refcount table entry is not cluster-aligned", false },
	{ "refcount table: past the end, for a new cluster", reftable_past_end, COW_OP_WRITE, FRESH,
	  "refcount table entry lies past the end of the file", false },
	{ "refcount table: no block, for a new cluster", reftable_missing, COW_OP_WRITE, FRESH,
	  "metadata in a range without a refcount block", false },
	{ "refcount block: zeros, for a new cluster", refcounts_zero, COW_OP_WRITE, FRESH,
	  "live metadata has refcount 0", false },
	{ "refcount block: zero for what is freed", data_refcount_zero, COW_OP_DISCARD, 0,
	  "a cluster in use has refcount 0", true },
	{ "refcount table: no block for what is freed", no_refcount, COW_OP_DISCARD, 0,
	  "a cluster in use has no refcount", true },
};

/* ---- one row ---- */

static void open_image(struct fixture *f)
{
	struct cow_open_options options = { .writable = true };
	struct cow_error err = { 0 };
	if (cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &f->image, &err))
		fail_msg("open: %s", err.text);
	assert_int_equal(cow_queue_new(f->image, &f->m->loop, 4, &f->queue), 0);
}

static int close_image(struct fixture *f)
{
	struct cow_error err = { 0 };
	cow_queue_free(f->queue);
	return cow_image_close(f->image, &f->m->loop, &err);
}

static void make_image(struct fixture *f)
{
	struct cow_create_options options = { .size_bytes = 16 * SPAN,
					      .has_size = true,
					      .cluster_bytes = CLUSTER };
	struct cow_error err = { 0 };
	f->m = memory_host_new();
	cow_loop_enter(&f->m->loop);
	assert_int_equal(cow_create(&f->m->host, &f->m->loop, "/disk", &options, &err), 0);
	open_image(f);
	memset(f->buf, 7, CLUSTER);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_WRITE, 0, 0, CLUSTER, f->buf), 0);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_WRITE, 0, SOUND, CLUSTER, f->buf), 0);
	assert_int_equal(close_image(f), 0);
	assert_int_equal(cow_header_decode(f->m->bytes, CLUSTER, &f->h, &err), 0);
	f->l2 = get(f, f->h.l1_off) & QCOW2_OFFSET_MASK;
	f->refblock = get(f, f->h.reftable_off);
}

/* Frees go through with the next FLUSHes. */
static void wait_for_failure(struct fixture *f)
{
	for (unsigned i = 0; i < 100 && !cow_image_failure(f->image); i++) {
		COW_IGNORE(cow_queue_do(f->queue, COW_OP_FLUSH, 0, 0, 0, NULL));
		COW_IGNORE(cow_loop_poll(&f->m->loop));
	}
}

static void assert_failed(struct fixture *f, const struct row *row, uint64_t at)
{
	char wanted[256];
	snprintf(wanted, sizeof(wanted), "corrupt at offset %llu: %s", (unsigned long long)at,
		 row->rule);
	if (!cow_image_failure(f->image) || strcmp(cow_image_failure(f->image), wanted))
		fail_msg("%s: wanted '%s', not '%s'", row->name, wanted,
			 cow_image_failure(f->image));
	assert_int_equal(cow_queue_do(f->queue, COW_OP_WRITE, 0, SOUND, CLUSTER, f->buf), -EIO);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_FLUSH, 0, 0, 0, NULL), -EIO);
	memset(f->buf, 0, CLUSTER);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_READ, 0, SOUND, CLUSTER, f->buf), 0);
	for (unsigned i = 0; i < CLUSTER; i++)
		assert_int_equal(f->buf[i], 7);
}

static void run_row(const struct row *row)
{
	struct fixture f = { .buf = cow_buf_alloc(CLUSTER) };
	make_image(&f);
	uint64_t at = row->breaks(&f);
	open_image(&f);
	int ret = cow_queue_do(f.queue, row->kind, 0, row->offset, CLUSTER, f.buf);
	if (ret != (row->late ? 0 : -EIO))
		fail_msg("%s: the request ends with %d", row->name, ret);
	if (row->late)
		wait_for_failure(&f);
	assert_failed(&f, row, at);
	assert_int_equal(close_image(&f), -EIO);
	assert_true(get(&f, offsetof(struct qcow2_header_be, incompatible_features)) &
		    QCOW2_INCOMPAT_CORRUPT);
	cow_loop_enter(NULL);
	memory_host_free(f.m);
	free(f.buf);
}

static void corruption_met_at_run_time(void **state)
{
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		print_message("%s\n", rows[i].name);
		run_row(&rows[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(corruption_met_at_run_time),
	};
	return cmocka_run_group_tests_name("corrupt", tests, NULL, NULL);
}
