/* SPDX-License-Identifier: MIT */
/* A disk that becomes larger or smaller while it is used: what it holds then, what stands in the way, a host that refuses. */
#include <errno.h>
#include "engine/image/state.h"
#include "engine/life/freeze.h"
#include "engine/life/live_resize.h"
#include "tests/unit/request_fixture.h"

#define SMALL_CLUSTER 512u
#define MEDIUM_CLUSTER 4096u
#define LARGE_CLUSTER (128u << 10)
#define COVERED (512u * MEDIUM_CLUSTER) /* by an L2 table of medium clusters */

static int setup_clusters(void **state, uint32_t cluster_bytes)
{
	request_setup(state);
	struct fixture *f = *state;
	close_image(f);
	create_image(f, cluster_bytes, COVERED);
	open_image(f);
	return 0;
}

static int setup(void **state)
{
	return setup_clusters(state, MEDIUM_CLUSTER);
}

static int setup_large(void **state)
{
	return setup_clusters(state, LARGE_CLUSTER);
}

static int setup_small(void **state)
{
	return setup_clusters(state, SMALL_CLUSTER);
}

/* The tests close it, and know whether there may be leaks. */
static int teardown(void **state)
{
	request_end(*state);
	return 0;
}

static int resize(struct fixture *f, const struct cow_resize_options *options)
{
	struct cow_error err = { 0 };
	uint64_t now, pause_ns, old = cow_image_geometry(f->image)->size_bytes;
	int ret = cow_image_resize(f->image, &f->m->loop, options, &now, &pause_ns, &err);
	assert_int_equal(now, cow_image_geometry(f->image)->size_bytes);
	assert_int_equal(now, ret ? old : options->bytes);
	if (ret)
		assert_true(err.text[0]);
	return ret;
}

static int grow_in(struct fixture *f, uint64_t bytes, uint32_t block_bytes)
{
	return resize(f,
		      &(struct cow_resize_options){ .bytes = bytes, .block_bytes = block_bytes });
}

static int shrink(struct fixture *f, uint64_t bytes)
{
	return resize(f, &(struct cow_resize_options){ .bytes = bytes, .shrink = true });
}

static int grow(struct fixture *f, uint64_t bytes)
{
	return grow_in(f, bytes, 0);
}

static void fill(struct fixture *f, uint64_t off, int value)
{
	write_bytes(f, off, MEDIUM_CLUSTER, value);
}

static void expect(struct fixture *f, uint64_t off, int value)
{
	expect_bytes(f, off, MEDIUM_CLUSTER, value);
}

static void test_all_there(void **state)
{
	struct fixture *f = *state;
	uint64_t size = COVERED;
	for (uint8_t i = 1; i <= 20; i++) {
		fill(f, size - MEDIUM_CLUSTER, i);
		assert_int_equal(cow_queue_do(f->queue, COW_OP_READ, 0, size, 512, f->read),
				 -EINVAL);
		size += i % 3 ? COVERED * 300ull : MEDIUM_CLUSTER;
		assert_int_equal(grow(f, size), 0);
		expect(f, size - MEDIUM_CLUSTER, 0);
	}
	assert_int_equal(grow(f, size), 0);
	close_image(f);
	expect_clean(f);
	open_image(f);
	assert_int_equal(cow_image_geometry(f->image)->size_bytes, size);
	expect(f, COVERED - MEDIUM_CLUSTER, 1);
	close_image(f);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(grow(f, COVERED + 1), -EINVAL);
	assert_int_equal(grow(f, COVERED - 512), -EINVAL);
	assert_int_equal(grow(f, INT64_MAX & ~511ll), -EFBIG);
	close_image(f);
	expect_clean(f);
}

/* What the kernel has as a block is the least that it can ask for. */
static void test_blocks(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(grow_in(f, COVERED + 512, 4096), -EINVAL);
	assert_int_equal(grow_in(f, COVERED + 4096, 4096), 0);
	assert_int_equal(grow_in(f, COVERED + 4608, 512), 0);
	close_image(f);
	expect_clean(f);
}

/* As `qemu-img create` leaves a disk of 0 bytes: without an L1 table, so there is no old one to be freed. */
static void test_from_nothing(void **state)
{
	struct fixture *f = *state;
	close_image(f);
	cow_store64_be(f->m->bytes + 24, 0);
	cow_store32_be(f->m->bytes + 36, 0);
	cow_store64_be(f->m->bytes + 40, 0);
	open_image(f);
	assert_int_equal(cow_image_geometry(f->image)->size_bytes, 0);
	assert_int_equal(grow(f, COVERED), 0);
	fill(f, COVERED - MEDIUM_CLUSTER, 3);
	close_image(f);
	disk_expect_sound(f->m); /* leaks: the table that it was created with */
	open_image(f);
	expect(f, COVERED - MEDIUM_CLUSTER, 3);
	close_image(f);
}

/* The longer L1 table needs more refcount blocks than the refcount table leads to: the header says where both went. */
static void test_outgrows_refcounts(void **state)
{
	struct fixture *f = *state;
	/* a table of one cluster, blocks of 16-bit counts */
	uint64_t counted = SMALL_CLUSTER / 8ull * (SMALL_CLUSTER / 2) * SMALL_CLUSTER;
	uint64_t size = 2 * counted;
	uint8_t before[8];
	memcpy(before, f->m->bytes + 48, sizeof(before));
	assert_int_equal(grow(f, size), 0);
	for (uint64_t off = 0; memory_size(f->m) < counted - counted / 32; off += MEDIUM_CLUSTER)
		fill(f, off, 5);
	while (!memcmp(before, f->m->bytes + 48, sizeof(before))) {
		size += 1u << 20;
		assert_true(size < 256u << 20);
		assert_int_equal(grow(f, size), 0);
	}
	fill(f, size - MEDIUM_CLUSTER, 6);
	close_image(f);
	expect_clean(f);
	open_image(f);
	expect(f, 0, 5);
	expect(f, size - MEDIUM_CLUSTER, 6);
	close_image(f);
}

/* Old data behind the end of the disk does not come back from a cluster in which the file ends, either. */
static void test_file_ends_in_tail(void **state)
{
	struct fixture *f = *state;
	uint64_t last = COVERED - LARGE_CLUSTER, at = 0;
	fill(f, last, 9);
	close_image(f);
	while (f->m->bytes[at] != 9 || f->m->bytes[at + MEDIUM_CLUSTER - 1] != 9)
		assert_true((at += LARGE_CLUSTER) < memory_size(f->m));
	cow_store64_be(f->m->bytes + 24, last + 512);
	memory_set_size(f->m, at + LARGE_CLUSTER / 2);
	open_image(f);
	assert_int_equal(grow(f, COVERED), 0);
	expect_bytes(f, last, 512, 9);
	expect_bytes(f, last + 512, MEDIUM_CLUSTER - 512, 0);
	close_image(f);
	expect_clean(f);
}

/* Clusters of the host that begin with this. */
static unsigned filled_on_host(struct fixture *f, int value)
{
	unsigned nr = 0;
	for (uint64_t at = 0; at < memory_size(f->m); at += MEDIUM_CLUSTER)
		nr += f->m->bytes[at] == value && f->m->bytes[at + 511] == value;
	return nr;
}

/* What lies behind the end is gone, on the host too; what lies before it is as it was. */
static void test_smaller(void **state)
{
	struct fixture *f = *state;
	uint64_t end = COVERED / 2 + 512;
	assert_int_equal(grow(f, COVERED * 3ull), 0);
	for (uint64_t off = 0; off < COVERED * 3ull; off += MEDIUM_CLUSTER)
		fill(f, off, 7);
	assert_int_equal(grow(f, COVERED), -EINVAL); /* not asked for */
	assert_int_equal(shrink(f, COVERED * 2ull), 0);
	assert_int_equal(shrink(f, end), 0);
	assert_int_equal(cow_queue_do(f->queue, COW_OP_READ, 0, end, 512, f->read), -EINVAL);
	expect(f, COVERED / 2 - MEDIUM_CLUSTER, 7);
	assert_int_equal(filled_on_host(f, 7), COVERED / 2 / MEDIUM_CLUSTER + 1);
	assert_int_equal(grow(f, COVERED * 3ull), 0);
	expect_bytes(f, end - 512, 512, 7);
	expect(f, end, 0);
	expect(f, COVERED * 3ull - MEDIUM_CLUSTER, 0);
	fill(f, COVERED * 3ull - MEDIUM_CLUSTER, 8);
	close_image(f);
	expect_clean(f);
}

/* It was on its way when the disk became smaller, and reached behind the new end. */
static void test_smaller_meets_request(void **state)
{
	struct fixture *f = *state;
	struct cow_error err = { 0 };
	fill(f, COVERED - MEDIUM_CLUSTER, 1);
	assert_int_equal(cow_freeze_begin(f->image, &err), 0);
	cow_gate_shut(&f->image->gate);
	start(f, 0, COW_OP_WRITE, 0, COVERED - MEDIUM_CLUSTER, MEDIUM_CLUSTER, 2);
	start(f, 1, COW_OP_READ, 0, COVERED / 2 - 512, 1024, 0);
	start(f, 2, COW_OP_WRITE, 0, COVERED / 2 - 512, 512, 3);
	run(f);
	cow_core_set_size_bytes(&f->image->core, COVERED / 2);
	cow_gate_open(&f->image->gate);
	cow_freeze_end(f->image);
	expect_result(f, 0, -EINVAL);
	expect_result(f, 1, -EINVAL);
	expect_result(f, 2, 0);
	cow_core_set_size_bytes(&f->image->core, COVERED);
	expect(f, COVERED - MEDIUM_CLUSTER, 1);
	close_image(f);
	expect_clean(f);
}

static int grow_much(struct fixture *f)
{
	return grow(f, cow_image_geometry(f->image)->size_bytes + COVERED * 600ull);
}

static int shrink_by_half(struct fixture *f)
{
	return shrink(f, cow_image_geometry(f->image)->size_bytes / 2);
}

/* Each write and sync of it in turn: the size is the old one or, where nobody knows, the image is failed. */
static void refuse_each(struct fixture *f, int (*change)(struct fixture *), enum cow_io_kind kind,
			int error)
{
	bool leaks = false;
	for (unsigned i = 0;; i++) {
		uint64_t old = cow_image_geometry(f->image)->size_bytes;
		if (change == shrink_by_half && old < COVERED) {
			assert_int_equal(grow(f, COVERED), 0);
			old = COVERED;
		}
		fill(f, (i % 500) * MEDIUM_CLUSTER % old, 1);
		fill(f, old - MEDIUM_CLUSTER, 1);
		f->m->fail_kind = kind;
		f->m->fail_skip = i;
		f->m->fail_error = error;
		int ret = change(f);
		bool met = !f->m->fail_error;
		f->m->fail_error = 0;
		bool failed = cow_image_failure(f->image);
		cow_queue_free(f->queue);
		struct cow_error err = { 0 };
		assert_true(!cow_image_close(f->image, &f->m->loop, &err) || failed);
		leaks |= failed; /* an image that has failed leaves some */
		assert_true(!disk_expect_sound(f->m) || leaks);
		open_image(f);
		if (!failed)
			assert_int_equal(cow_image_geometry(f->image)->size_bytes != old, !ret);
		if (!met)
			return;
	}
}

static void test_full_host(void **state)
{
	refuse_each(*state, grow_much, COW_IO_WRITE, -ENOSPC);
	refuse_each(*state, shrink_by_half, COW_IO_WRITE, -ENOSPC);
	close_image(*state);
}

static void test_failing_host(void **state)
{
	refuse_each(*state, grow_much, COW_IO_WRITE, -EIO);
	refuse_each(*state, grow_much, COW_IO_SYNC, -EIO);
	refuse_each(*state, shrink_by_half, COW_IO_WRITE, -EIO);
	refuse_each(*state, shrink_by_half, COW_IO_SYNC, -EIO);
	close_image(*state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_all_there, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_blocks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_from_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_outgrows_refcounts, setup_small, teardown),
		cmocka_unit_test_setup_teardown(test_file_ends_in_tail, setup_large, teardown),
		cmocka_unit_test_setup_teardown(test_smaller, setup, teardown),
		cmocka_unit_test_setup_teardown(test_smaller_meets_request, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failing_host, setup, teardown),
	};
	return cmocka_run_group_tests_name("grow", tests, NULL, NULL);
}
