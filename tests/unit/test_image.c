/* SPDX-License-Identifier: MIT */
/* Opened images under unusual pressure, on a host in memory. */
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
#include "engine/base/log.h"
#include "engine/create/create.h"
#include "engine/format/format.h"
#include "engine/life/image.h"
#include "engine/life/image_memory.h"
#include "engine/request/kind.h"
#include "engine/request/queue.h"
#include "engine/snapshot/snapshot.h"
#include "tests/memory/memory_host.h"
#include "tests/unit/disk_fixture.h"

#define CLUSTER 512u
#define SPAN (CLUSTER / 8 * CLUSTER) /* guest bytes that one slice maps */
#define NR_SPANS 64u

struct fixture {
	struct memory_host *m;
	struct cow_image *image;
	struct cow_queue *queue;
	uint8_t *buf;
	unsigned nr_done;
};

static void open_image(struct fixture *f, bool writable, uint64_t cache_bytes)
{
	struct cow_open_options options = { .writable = writable, .cache_bytes = cache_bytes };
	struct cow_error err = { 0 };
	if (cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &f->image, &err))
		fail_msg("open: %s", err.text);
	assert_int_equal(cow_queue_new(f->image, &f->m->loop, NR_SPANS, &f->queue), 0);
}

static void close_image(struct fixture *f)
{
	struct cow_error err = { 0 };
	cow_queue_free(f->queue);
	assert_int_equal(cow_image_close(f->image, &f->m->loop, &err), 0);
}

static int setup(void **state)
{
	struct cow_create_options options = { .size_bytes = (uint64_t)NR_SPANS * SPAN,
					      .has_size = true,
					      .cluster_bytes = CLUSTER };
	struct fixture *f = calloc(1, sizeof(*f));
	f->m = memory_host_new();
	cow_loop_enter(&f->m->loop);
	f->buf = cow_buf_alloc(NR_SPANS * CLUSTER);
	disk_create(f->m, &options);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	cow_loop_enter(NULL);
	free(f->buf);
	memory_host_free(f->m);
	free(f);
	return 0;
}

static void count_done(void *ctx, int result)
{
	assert_int_equal(result, 0);
	((struct fixture *)ctx)->nr_done++;
}

/* A request to the first sector of each span, all at once. */
static void all_spans(struct fixture *f, enum cow_op_kind kind)
{
	f->nr_done = 0;
	for (unsigned i = 0; i < NR_SPANS; i++)
		cow_queue_submit(f->queue, i, kind, 0, (uint64_t)i * SPAN, CLUSTER,
				 f->buf + i * CLUSTER, count_done, f);
	for (unsigned i = 0; i < 1000 && f->nr_done < NR_SPANS; i++)
		COW_IGNORE(cow_loop_poll(&f->m->loop));
	assert_int_equal(f->nr_done, NR_SPANS);
}

/*
 * More slices wanted at once than the cache has slots: who finds all of them loading waits; there
 * is nothing to write back.
 */
static void test_small_cache(void **state)
{
	struct fixture *f = *state;
	open_image(f, true, 0);
	for (unsigned i = 0; i < NR_SPANS; i++)
		memset(f->buf + i * CLUSTER, (int)i + 1, CLUSTER);
	all_spans(f, COW_OP_WRITE);
	close_image(f);
	for (unsigned writable = 0; writable < 2; writable++) {
		open_image(f, writable, CLUSTER);
		memset(f->buf, 0, NR_SPANS * CLUSTER);
		all_spans(f, COW_OP_READ);
		for (unsigned i = 0; i < NR_SPANS * CLUSTER; i++)
			assert_int_equal(f->buf[i], i / CLUSTER + 1);
		close_image(f);
	}
}

/*
 * A broken mapping leads from the guest's data to the refcount table: the discard of that "data"
 * leaves it alone.
 */
static void test_discard_of_metadata(void **state)
{
	struct fixture *f = *state;
	struct cow_error err = { 0 };
	struct cow_header h;
	uint8_t before[CLUSTER];
	open_image(f, true, 0);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_WRITE, 0, 0, CLUSTER, f->buf), 0);
	close_image(f);
	assert_int_equal(cow_header_decode(f->m->bytes, CLUSTER, &h, &err), 0);
	uint64_t table = cow_load64_be(f->m->bytes + h.l1_off) & QCOW2_OFFSET_MASK;
	cow_store64_be(f->m->bytes + table, h.reftable_off | QCOW2_COPIED);
	memcpy(before, f->m->bytes + h.reftable_off, CLUSTER);
	open_image(f, true, 0);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_DISCARD, 0, 0, CLUSTER, NULL), 0);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_FLUSH, 0, 0, 0, NULL), 0);
	cow_queue_free(f->queue);
	assert_true(cow_image_close(f->image, &f->m->loop, &err) < 0);
	assert_memory_equal(before, f->m->bytes + h.reftable_off, CLUSTER);
}

/* From event `start` on: is what was there durable before the first write? */
static bool synced_first(const struct memory_host *m, unsigned start)
{
	for (unsigned i = start; i < m->nr_trace; i++)
		if (m->trace[i].kind == COW_IO_SYNC || m->trace[i].kind == COW_IO_WRITE)
			return m->trace[i].kind == COW_IO_SYNC;
	return false;
}

/*
 * A killed process may have left a header in the host's cache that a loss of power takes back:
 * nothing is built on it before a sync.
 */
static void test_opening_syncs_first(void **state)
{
	struct fixture *f = *state;
	struct cow_snapshot_date date = { .sec = 1 };
	struct cow_error err = { 0 };
	struct cow_file *file;
	unsigned start = f->m->nr_trace;
	open_image(f, true, 0);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_WRITE, 0, 0, CLUSTER, f->buf), 0);
	assert_true(synced_first(f->m, start));
	close_image(f);
	start = f->m->nr_trace;
	assert_int_equal(f->m->host.ops->open(&f->m->host, "/disk", COW_OPEN_WRITE, &file, &err),
			 0);
	assert_int_equal(cow_snapshot_create(&f->m->loop, file, "a", &date, NULL, &err), 0);
	f->m->host.ops->close(file);
	assert_true(synced_first(f->m, start));
}

static unsigned nr_punch_lines;

static void count_punch_lines(enum cow_log_level level, const char *line)
{
	nr_punch_lines += strstr(line, "cannot punch holes") != NULL;
}

static void fail_next(struct fixture *f, enum cow_io_kind kind, int error, unsigned nr)
{
	f->m->fail_kind = kind;
	f->m->fail_error = error;
	f->m->fail_skip = 0;
	f->m->fail_more = nr - 1;
}

static void expect_errors(struct fixture *f, const uint64_t nr[COW_HEALTH_NR])
{
	struct cow_image_health health;
	cow_image_health(f->image, &health);
	for (unsigned i = 0; i < COW_HEALTH_NR; i++)
		assert_int_equal(health.nr_errors[i], nr[i]);
}

/* A guest repeats what fails: each is counted, and the last is known. The image stays live. */
static void test_host_errors_are_counted(void **state)
{
	struct fixture *f = *state;
	struct cow_image_health health;
	open_image(f, true, 0);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_WRITE, 0, 0, CLUSTER, f->buf), 0);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_FLUSH, 0, 0, 0, NULL), 0);
	expect_errors(f, (uint64_t[]){ 0, 0, 0, 0 });
	cow_image_health(f->image, &health);
	assert_int_equal(health.last.error, 0);
	assert_null(health.last_file);
	fail_next(f, COW_IO_READ, -EIO, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(cow_queue_do(f->queue, COW_OP_READ, 0, 0, CLUSTER, f->buf), -EIO);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_READ, 0, 0, CLUSTER, f->buf), 0);
	expect_errors(f, (uint64_t[]){ 3, 0, 0, 0 });
	uint64_t at = f->m->trace[f->m->nr_trace - 1].offset;
	fail_next(f, COW_IO_WRITE, -ENOSPC, 1);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_WRITE, 0, 0, CLUSTER, f->buf), -ENOSPC);
	expect_errors(f, (uint64_t[]){ 3, 1, 0, 0 });
	cow_image_health(f->image, &health);
	assert_int_equal(health.last.kind, COW_HEALTH_WRITE);
	assert_int_equal(health.last.error, ENOSPC);
	assert_int_equal(health.last.offset, at);
	assert_true(health.last.time_nsec > 0);
	assert_string_equal(health.last_file, "/disk");
	assert_null(cow_image_failure(f->image));
	close_image(f);
}

/* Writes some spans whole, discards them, and waits until their clusters are released. */
static void discard_some(struct fixture *f, unsigned first, unsigned nr)
{
	uint64_t at = (uint64_t)first * SPAN;
	for (unsigned i = 0; i < nr * SPAN / (NR_SPANS * CLUSTER); i++)
		assert_int_equal(cow_queue_do(f->queue, COW_OP_WRITE, 0,
					      at + (uint64_t)i * NR_SPANS * CLUSTER,
					      NR_SPANS * CLUSTER, f->buf),
				 0);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_DISCARD, 0, at, nr * SPAN, NULL), 0);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_FLUSH, 0, 0, 0, NULL), 0);
	for (unsigned i = 0; i < 1000; i++)
		COW_IGNORE(cow_loop_poll(&f->m->loop));
}

/* The guest is told that its discards succeed; we say once that they give nothing back. */
static void test_host_that_cannot_punch(void **state)
{
	struct fixture *f = *state;
	struct cow_image_health health;
	cow_log_set_sink(count_punch_lines, COW_LOG_WARNING);
	open_image(f, true, 0);
	discard_some(f, 0, 4);
	cow_image_health(f->image, &health);
	assert_true(health.gives_space_back);
	assert_false(health.cannot_punch);
	assert_int_equal(nr_punch_lines, 0);
	fail_next(f, COW_IO_PUNCH, -EOPNOTSUPP, 1000);
	discard_some(f, 0, 4);
	discard_some(f, 8, 4);
	assert_true(f->m->fail_more < 999); /* it was tried again */
	cow_image_health(f->image, &health);
	assert_false(health.gives_space_back);
	assert_true(health.cannot_punch);
	assert_int_equal(nr_punch_lines, 1);
	expect_errors(f, (uint64_t[]){ 0, 0, 0, 0 });
	/* Another error of a discard is one. */
	fail_next(f, COW_IO_PUNCH, -EIO, 1);
	discard_some(f, 16, 4);
	expect_errors(f, (uint64_t[]){ 0, 0, 0, 1 });
	close_image(f);
}

static int submit(struct fixture *f, enum cow_op_kind kind, uint64_t off, uint64_t bytes)
{
	return cow_queue_do(f->queue, kind, 0, off, bytes, f->buf);
}

/* Outside of the disk, unaligned, nothing, a write to what is read-only. */
static void test_requests_that_cannot_be(void **state)
{
	struct fixture *f = *state;
	const uint64_t end = (uint64_t)NR_SPANS * SPAN;
	for (unsigned writable = 0; writable < 2; writable++) {
		open_image(f, writable, 0);
		assert_int_equal(submit(f, COW_OP_READ, end, 512), -EINVAL);
		assert_int_equal(submit(f, COW_OP_READ, end - 512, 1024), -EINVAL);
		assert_int_equal(submit(f, COW_OP_READ, 1, 512), -EINVAL);
		assert_int_equal(submit(f, COW_OP_READ, UINT64_MAX - 511, 512), -EINVAL);
		assert_int_equal(submit(f, COW_OP_READ, 512, 0), 0);
		assert_int_equal(submit(f, COW_OP_WRITE, 0, 512), writable ? 0 : -EROFS);
		close_image(f);
	}
}

static void write_spans(struct fixture *f, unsigned first, unsigned nr)
{
	for (unsigned i = first; i < first + nr; i++)
		assert_int_equal(submit(f, COW_OP_WRITE, (uint64_t)i * SPAN, SPAN), 0);
}

/* Free clusters inside the file are taken before it grows. */
static void test_free_clusters_before_growing(void **state)
{
	struct fixture *f = *state;
	open_image(f, true, 0);
	write_spans(f, 0, NR_SPANS);
	close_image(f);
	open_image(f, true, 0);
	discard_some(f, 48, 8);
	close_image(f);
	open_image(f, true, 0);
	fail_next(f, COW_IO_RESIZE, -ENOSPC, 100000);
	write_spans(f, 48, 4);
	assert_int_equal(f->m->fail_more, 99999); /* growing was not tried */
	f->m->fail_error = 0;
	assert_null(cow_image_failure(f->image));
	close_image(f);
}

/* A quota ends the file's growth: requests that need more fail as on a full host, and can be repeated. */
static void test_file_that_may_not_grow(void **state)
{
	struct fixture *f = *state;
	unsigned i = 0;
	int ret = 0;
	open_image(f, true, 0);
	fail_next(f, COW_IO_RESIZE, -EDQUOT, 100000);
	while (i < NR_SPANS && !ret)
		ret = submit(f, COW_OP_WRITE, (uint64_t)i++ * SPAN, SPAN);
	assert_int_equal(ret, -ENOSPC);
	assert_null(cow_image_failure(f->image));
	f->m->fail_error = 0;
	write_spans(f, i - 1, NR_SPANS - i + 1);
	close_image(f);
}

/* A full host lets nothing be released: closing says so and leaks, the image is as it was. */
static void test_close_on_a_full_host(void **state)
{
	struct fixture *f = *state;
	struct cow_error err = { 0 };
	open_image(f, true, 0);
	memset(f->buf, 7, SPAN);
	write_spans(f, 0, 2);
	assert_int_equal(submit(f, COW_OP_FLUSH, 0, 0), 0);
	assert_int_equal(submit(f, COW_OP_DISCARD, SPAN, SPAN), 0);
	assert_int_equal(submit(f, COW_OP_FLUSH, 0, 0), 0);
	fail_next(f, COW_IO_WRITE, -ENOSPC, 1000000);
	cow_queue_free(f->queue);
	assert_true(cow_image_close(f->image, &f->m->loop, &err) < 0);
	f->m->fail_error = 0;
	open_image(f, true, 0);
	assert_int_equal(submit(f, COW_OP_READ, 0, CLUSTER), 0);
	assert_int_equal(f->buf[0], 7);
	close_image(f);
}

/* An L2 table behind the end of the file: nothing is written to such an image, the rest is read. */
static void test_table_past_the_end(void **state)
{
	struct fixture *f = *state;
	struct cow_open_options options = { .writable = true };
	struct cow_error err = { 0 };
	struct cow_header h;
	open_image(f, true, 0);
	memset(f->buf, 9, CLUSTER);
	assert_int_equal(submit(f, COW_OP_WRITE, SPAN, CLUSTER), 0);
	close_image(f);
	assert_int_equal(cow_header_decode(f->m->bytes, CLUSTER, &h, &err), 0);
	cow_store64_be(f->m->bytes + h.l1_off, (1ull << 40) | QCOW2_COPIED);
	assert_int_equal(
		cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &f->image, &err),
		-EINVAL);
	assert_non_null(strstr(err.text, "past the end"));
	open_image(f, false, 0);
	assert_int_equal(submit(f, COW_OP_READ, 0, CLUSTER), -EIO);
	assert_int_equal(submit(f, COW_OP_READ, SPAN, CLUSTER), 0);
	assert_int_equal(f->buf[0], 9);
	close_image(f);
}

static void count_want(void *ctx)
{
	(*(unsigned *)ctx)++;
}

/* A small image asks for no more memory than it begins with, and works on when it has rested. */
static void test_memory_of_an_image(void **state)
{
	struct fixture *f = *state;
	unsigned wanted = 0;
	struct cow_open_options options = { .writable = true,
					    .want_memory = count_want,
					    .want_memory_ctx = &wanted };
	struct cow_error err = { 0 };
	if (cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &f->image, &err))
		fail_msg("open: %s", err.text);
	assert_int_equal(cow_queue_new(f->image, &f->m->loop, NR_SPANS, &f->queue), 0);
	for (unsigned round = 0; round < 3; round++) {
		all_spans(f, round ? COW_OP_READ : COW_OP_WRITE);
		cow_image_grow(f->image);
		cow_queue_rest(f->queue);
	}
	assert_int_equal(submit(f, COW_OP_FLUSH, 0, 0), 0);
	cow_image_rest(f->image);
	assert_true(cow_image_rest(f->image));
	assert_int_equal(wanted, 0);
	all_spans(f, COW_OP_READ);
	close_image(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_small_cache, setup, teardown),
		cmocka_unit_test_setup_teardown(test_discard_of_metadata, setup, teardown),
		cmocka_unit_test_setup_teardown(test_opening_syncs_first, setup, teardown),
		cmocka_unit_test_setup_teardown(test_host_errors_are_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(test_host_that_cannot_punch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_requests_that_cannot_be, setup, teardown),
		cmocka_unit_test_setup_teardown(test_free_clusters_before_growing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_that_may_not_grow, setup, teardown),
		cmocka_unit_test_setup_teardown(test_close_on_a_full_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_table_past_the_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory_of_an_image, setup, teardown),
	};
	return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
