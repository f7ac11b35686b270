/* SPDX-License-Identifier: MIT */
/*
 * Commands on dirty bitmaps, headers that have no room or name invalid ones, and an I/O failed at
 * any point of a command or a session.
 */
#include "engine/base/buf.h"
#include "engine/life/image.h"
#include "engine/life/live_bitmap.h"
#include "engine/request/kind.h"
#include "tests/unit/bitmap_fixture.h"

/* ---- commands ---- */

static int merge(struct fixture *f, const char *name, const char *source)
{
	const struct cow_bitmap_change change = {
		.command = COW_BITMAP_MERGE, .name = name, .sources = &source, .nr_sources = 1
	};
	return run(f, &change);
}

static void commands(void **state)
{
	struct fixture *f = *state;
	create(f);
	must(f, COW_BITMAP_ADD, "a");
	assert_int_equal(command(f, COW_BITMAP_ADD, "a"), -EEXIST);
	assert_int_equal(command(f, COW_BITMAP_ADD, ""), -EINVAL);
	assert_int_equal(command(f, COW_BITMAP_CLEAR, "b"), -ENOENT);
	write_closed(f, 8192, 512, 1);
	assert_memory_equal(dump(f, "a"), "..#.....", 8);
	must(f, COW_BITMAP_ADD, "b");
	write_closed(f, 20480, 512, 1);
	assert_memory_equal(dump(f, "a"), "..#..#..", 8);
	assert_memory_equal(dump(f, "b"), ".....#..", 8);
	must(f, COW_BITMAP_DISABLE, "a");
	must(f, COW_BITMAP_CLEAR, "b");
	write_closed(f, 0, 512, 1);
	assert_memory_equal(dump(f, "a"), "..#..#..", 8);
	assert_memory_equal(dump(f, "b"), "#.......", 8);
	assert_int_equal(merge(f, "b", "a"), 0);
	assert_memory_equal(dump(f, "b"), "#.#..#..", 8);
	assert_int_equal(merge(f, "b", "c"), -ENOENT);
	must(f, COW_BITMAP_REMOVE, "a");
	assert_int_equal(assert_sound(f), 0);
	must(f, COW_BITMAP_REMOVE, "b");
	assert_int_equal(assert_sound(f), 0);
	assert_int_equal(nr_bitmaps(f), 0);
}

/* An image that was not closed. */
static void inconsistent(void **state)
{
	struct fixture *f = *state;
	create(f);
	must(f, COW_BITMAP_ADD, "a");
	must(f, COW_BITMAP_ADD, "b");
	must(f, COW_BITMAP_DISABLE, "b");
	memory_keep_changes(f->m);
	memory_power_off_after(f->m, 6);
	write_closed(f, 0, 512, 1);
	memory_power_on(f->m);
	assert_null(dump(f, "a"));
	assert_non_null(strstr(f->err.text, "inconsistent"));
	assert_memory_equal(dump(f, "b"), "....", 4);
	assert_int_equal(command(f, COW_BITMAP_CLEAR, "a"), -EINVAL);
	assert_int_equal(command(f, COW_BITMAP_DISABLE, "a"), -EINVAL);
	assert_int_equal(merge(f, "b", "a"), -EINVAL);
	write_closed(f, 4096, 512, 1);
	assert_null(dump(f, "a"));
	must(f, COW_BITMAP_REMOVE, "a");
	must(f, COW_BITMAP_ADD, "a");
	assert_sound(f);
}

/* ---- the header ---- */

static void no_room(void **state)
{
	struct fixture *f = *state;
	lay_out(f, CLUSTER - 200, -1, false);
	must(f, COW_BITMAP_ADD, "a");
	lay_out(f, CLUSTER - 160, -1, false);
	uint64_t size = memory_size(f->m);
	assert_int_equal(command(f, COW_BITMAP_ADD, "a"), -ENOSPC);
	assert_int_equal(memory_size(f->m), size);
	assert_int_equal(assert_sound(f), 0);
}

/*
 * A program that knows no bitmaps wrote to the image: what the extension names may be anything by
 * now.
 */
static void invalid_extension(void **state)
{
	struct fixture *f = *state;
	create(f);
	must(f, COW_BITMAP_ADD, "a");
	f->m->bytes[95] = 0;
	uint64_t leaks = assert_sound(f);
	assert_true(leaks > 0);
	must(f, COW_BITMAP_ADD, "b");
	assert_int_equal(nr_bitmaps(f), 1);
	assert_int_equal(assert_sound(f), leaks);
}

/* ---- failing I/O ---- */

/* Each I/O of the kind in turn, until the command gets through. */
static void fail_each(struct fixture *f, enum cow_bitmap_command what, const char *name,
		      enum cow_io_kind kind, int error)
{
	for (unsigned skip = 0;; skip++) {
		restore(f);
		f->m->fail_kind = kind;
		f->m->fail_error = error;
		f->m->fail_skip = skip;
		int ret = command(f, what, name);
		bool hit = !f->m->fail_error;
		f->m->fail_error = 0;
		assert_true(!ret || f->err.text[0]);
		assert_header(f, -1, 3);
		if (!hit)
			break;
		assert_true(skip < 1000);
	}
}

static void failures(void **state)
{
	struct fixture *f = *state;
	create(f);
	must(f, COW_BITMAP_ADD, "a");
	must(f, COW_BITMAP_ADD, "b");
	write_closed(f, 4096, 8192, 1);
	keep(f);
	const enum cow_io_kind kinds[] = { COW_IO_READ, COW_IO_WRITE, COW_IO_SYNC, COW_IO_PUNCH };
	for (unsigned i = 0; i < 4; i++) {
		fail_each(f, COW_BITMAP_ADD, "c", kinds[i], i == 1 ? -ENOSPC : -EIO);
		fail_each(f, COW_BITMAP_REMOVE, "a", kinds[i], -EIO);
		fail_each(f, COW_BITMAP_CLEAR, "b", kinds[i], i == 1 ? -ENOSPC : -EIO);
	}
}

/*
 * Each write in turn, and what follows it, is refused: nothing is in doubt, and the bitmaps are
 * what they were, or invalid.
 */
static void refuse_each(struct fixture *f, enum cow_bitmap_command what, const char *name,
			unsigned more)
{
	restore(f);
	uint32_t before = nr_bitmaps(f);
	for (unsigned skip = 0;; skip++) {
		restore(f);
		f->m->fail_kind = COW_IO_WRITE;
		f->m->fail_error = skip % 2 ? -EDQUOT : -ENOSPC;
		f->m->fail_skip = skip;
		f->m->fail_more = more;
		int error = f->m->fail_error, ret = command(f, what, name);
		bool hit = !f->m->fail_error || f->m->fail_more != more;
		f->m->fail_error = 0;
		f->m->fail_more = 0;
		if (!hit)
			break;
		assert_true(!ret || ret == error);
		assert_sound(f);
		if (ret)
			assert_true(!nr_bitmaps(f) || nr_bitmaps(f) == before);
		assert_true(skip < 1000);
	}
}

static void refuse_all(struct fixture *f, enum cow_bitmap_command what, const char *name)
{
	keep(f);
	refuse_each(f, what, name, 0);
	refuse_each(f, what, name, 100000);
}

static void full_host(void **state)
{
	struct fixture *f = *state;
	create(f);
	refuse_all(f, COW_BITMAP_ADD, "a");
	restore(f);
	must(f, COW_BITMAP_ADD, "a");
	must(f, COW_BITMAP_ADD, "b");
	write_closed(f, 4096, 8192, 1);
	refuse_all(f, COW_BITMAP_ADD, "c");
	refuse_all(f, COW_BITMAP_CLEAR, "b");
	refuse_all(f, COW_BITMAP_REMOVE, "a");
	restore(f);
	must(f, COW_BITMAP_REMOVE, "a");
	refuse_all(f, COW_BITMAP_REMOVE, "b");
	lay_out(f, 360, -1, false); /* the place is cut by the end of a sector */
	must(f, COW_BITMAP_ADD, "a");
	refuse_all(f, COW_BITMAP_ADD, "b");
}

/* The same beside a device: it goes on, and can be closed. */
static void full_host_of_a_device(void **state)
{
	struct fixture *f = *state;
	create(f);
	must(f, COW_BITMAP_ADD, "a");
	keep(f);
	const struct cow_bitmap_change add = { .command = COW_BITMAP_ADD, .name = "b" };
	for (unsigned skip = 0, round = 0; skip < 60; round++, skip += !(round % 2)) {
		uint64_t pause;
		restore(f);
		struct cow_image *image = open_image(f, true);
		if (round % 2)
			assert_int_equal(put(f, image, 4096, 4096, 7), 0);
		assert_int_equal(do_op(f, image, COW_OP_FLUSH, 0, 0, NULL), 0);
		f->m->fail_kind = COW_IO_WRITE;
		f->m->fail_error = -ENOSPC;
		f->m->fail_skip = skip;
		COW_IGNORE(cow_image_change_bitmaps(image, &f->m->loop, &add, &pause, &f->err));
		f->m->fail_error = 0;
		assert_null(cow_image_failure(image));
		assert_int_equal(put(f, image, 8192, 4096, 8), 0);
		assert_int_equal(cow_image_close(image, &f->m->loop, NULL), 0);
		assert_sound(f);
	}
}

/* A session on a host that fails one I/O: what is not marked as in use is right all the same. */
static void failing_sessions(void **state)
{
	struct fixture *f = *state;
	create(f);
	must(f, COW_BITMAP_ADD, "a");
	keep(f);
	uint8_t *then = content(f);
	const enum cow_io_kind kinds[] = { COW_IO_READ, COW_IO_WRITE, COW_IO_SYNC };
	for (unsigned k = 0; k < 3; k++) {
		for (unsigned skip = 0; skip < 90; skip++) {
			struct cow_open_options options = { .writable = true,
							    .reserve_bytes = 16 * CLUSTER };
			struct cow_image *image;
			restore(f);
			f->m->fail_kind = kinds[k];
			f->m->fail_error = -EIO;
			f->m->fail_skip = skip;
			if (!cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &image,
					    NULL)) {
				put(f, image, 40960, 4096, 7);
				COW_IGNORE(cow_image_close(image, &f->m->loop, NULL));
			}
			f->m->fail_error = 0;
			const char *dirty = nr_bitmaps(f) ? dump(f, "a") : NULL;
			uint8_t *now = content(f);
			assert_true(!dirty || covered(then, now, dirty));
			free(now);
		}
	}
	free(then);
}

/* ---- a file that ends within its last cluster ---- */

#define LARGE (256u << 10) /* more than the engine rounds a file up to */

static void create_large(struct fixture *f)
{
	struct cow_create_options options = { .size_bytes = 32 * LARGE,
					      .has_size = true,
					      .cluster_bytes = LARGE,
					      .overwrite = true };
	const struct cow_bitmap_change add = { .command = COW_BITMAP_ADD, .name = "a" };
	assert_int_equal(cow_create(&f->m->host, &f->m->loop, "/disk", &options, &f->err), 0);
	assert_int_equal(run(f, &add), 0);
}

/* Is all of it dirty in bitmap "a"? */
static bool is_dirty(struct fixture *f, uint64_t off, uint64_t bytes)
{
	struct cow_file *file = open_file(f);
	struct cow_dirty d;
	uint64_t at = off, run = 0;
	assert_int_equal(cow_bitmap_dump(&f->m->loop, file, "a", &d, &f->err), 0);
	f->m->host.ops->close(file);
	bool found = cow_dirty_next(&d, &at, &run) && at == off && run >= bytes;
	cow_dirty_fini(&d);
	return found;
}

/* The number that the file's last cluster is filled with, which is the guest's for it. */
static uint64_t fill(struct fixture *f)
{
	struct cow_image *image = open_image(f, true);
	for (int i = 1; i <= 16; i++)
		assert_int_equal(put(f, image, i * LARGE, LARGE, i), 0);
	assert_int_equal(cow_image_close(image, &f->m->loop, &f->err), 0);
	return f->m->bytes[memory_size(f->m) - LARGE];
}

/*
 * The last cluster is written to past the end; then the bitmaps cannot be stored. What was appended
 * for them is cut off, no more.
 */
static void short_last_cluster(void **state)
{
	struct fixture *f = *state;
	uint8_t *buf = cow_buf_alloc(4096);
	create_large(f);
	struct cow_image *image = open_image(f, true);
	assert_int_equal(do_op(f, image, COW_OP_DISCARD, LARGE, 16 * LARGE, NULL), 0);
	assert_int_equal(cow_image_close(image, &f->m->loop, &f->err), 0);
	uint64_t guest = fill(f) * LARGE;
	assert_in_range(guest, LARGE, 16 * LARGE);
	memory_set_size(f->m, memory_size(f->m) - LARGE + 4096);
	image = open_image(f, true);
	assert_int_equal(put(f, image, guest + LARGE - 4096, 4096, 0xee), 0);
	assert_int_equal(do_op(f, image, COW_OP_DISCARD, 20 * LARGE, LARGE, NULL), 0);
	f->m->limit = 0;
	assert_int_equal(cow_image_close(image, &f->m->loop, &f->err), 0);
	f->m->limit = MEMORY_MAX_BYTES;
	/* There was a cluster for it. */
	assert_true(is_dirty(f, LARGE, 16 * LARGE));
	assert_true(is_dirty(f, 20 * LARGE, LARGE));
	assert_false(is_dirty(f, 24 * LARGE, 1));
	image = open_image(f, false);
	assert_int_equal(do_op(f, image, COW_OP_READ, guest + LARGE - 4096, 4096, buf), 0);
	assert_int_equal(cow_image_close(image, &f->m->loop, &f->err), 0);
	assert_int_equal(buf[0], 0xee);
	assert_int_equal(buf[4095], 0xee);
	free(buf);
}

/*
 * Without a cluster of its own the whole part is dirty. A second time as well: what was all dirty
 * stays so.
 */
static void no_room_at_close(void **state)
{
	struct fixture *f = *state;
	create_large(f);
	for (int round = 0; round < 2; round++) {
		struct cow_image *image = open_image(f, true);
		assert_int_equal(do_op(f, image, COW_OP_DISCARD, 3 * LARGE, LARGE, NULL), 0);
		f->m->limit = 0;
		assert_int_equal(cow_image_close(image, &f->m->loop, &f->err), 0);
		f->m->limit = MEMORY_MAX_BYTES;
		assert_true(is_dirty(f, 0, 32 * LARGE));
		assert_sound(f);
	}
}

/* ---- hostile directories ---- */

static char warning[1024];

static void keep_warning(enum cow_log_level level, const char *line)
{
	snprintf(warning, sizeof(warning), "%s", line);
}

/* A disk in clusters of 2 MiB, nothing allocated, and a directory in cluster 1. */
static uint8_t *make_huge(struct fixture *f, uint64_t size_bytes)
{
	struct cow_header h;
	create(f);
	assert_int_equal(cow_header_decode(f->m->bytes, 512, &h, NULL), 0);
	h.cluster_bits = 21;
	h.size_bytes = size_bytes;
	h.l1_entries = QCOW2_MAX_L1_BYTES / 8;
	h.l1_off = 4u << 20;
	h.reftable_off = 60u << 20;
	h.autoclear = QCOW2_AUTOCLEAR_BITMAPS;
	memory_set_size(f->m, 0);
	memory_set_size(f->m, MEMORY_MAX_BYTES);
	memory_fill(f->m, 0, 0, 4096);
	cow_header_encode(&h, f->m->bytes, h.header_bytes);
	put_extension(f->m->bytes, h.header_bytes, QCOW2_EXT_BITMAPS, 24);
	memset(f->m->bytes + h.header_bytes + 8, 0, 24);
	cow_store64_be(f->m->bytes + h.header_bytes + 24, 2u << 20);
	return f->m->bytes + h.header_bytes + 8;
}

static void put_entries(struct fixture *f, uint8_t *extension, unsigned granularity_bits,
			unsigned nr)
{
	uint32_t before = cow_load32_be(extension), all = before + nr;
	struct cow_bitmap b = { .table_off = 36u << 20,
				.table_entries = 64,
				.flags = COW_BITMAP_AUTO,
				.granularity_bits = (uint8_t)granularity_bits };
	for (uint32_t i = before; i < all; i++) {
		snprintf(b.name, sizeof(b.name), "%06u", i);
		cow_bitmap_encode(&b, f->m->bytes + (2u << 20) + i * 32);
	}
	cow_store32_be(extension, all);
	cow_store64_be(extension + 8, all * 32ull);
}

static void assert_not_kept(struct fixture *f, const char *why)
{
	struct cow_tracking tracking;
	struct cow_file *file = open_file(f);
	struct cow_core core = { .file = file };
	cow_log_set_sink(keep_warning, COW_LOG_WARNING);
	cow_tracking_start(&tracking, &f->m->loop, &core, NULL, NULL);
	cow_log_set_sink(quiet, COW_LOG_ERR);
	f->m->host.ops->close(file);
	assert_false(tracking.kept);
	assert_int_equal(core.kept_autoclear, 0);
	assert_non_null(strstr(warning, why));
	cow_tracking_fini(&tracking);
}

/*
 * Of 2 EiB: eight of 128 MiB each, and so many of sizes that no table can have that all together
 * are 2^64 bytes.
 */
static void too_much_in_all(void **state)
{
	struct fixture *f = *state;
	uint8_t *extension = make_huge(f, 1ull << 61);
	put_entries(f, extension, 31, 8);
	put_entries(f, extension, 9, 32767);
	for (unsigned bits = 10; bits <= 28; bits++)
		put_entries(f, extension, bits, 1);
	assert_not_kept(f, "larger than 512 MiB together");
}

static void too_many(void **state)
{
	struct fixture *f = *state;
	put_entries(f, make_huge(f, 1ull << 20), 16, 1025);
	assert_not_kept(f, "more than 1024 bitmaps are enabled");
}

/*
 * A command that would have all of them lost at the next write is refused; one that records nothing
 * is not.
 */
static void one_too_many(void **state)
{
	struct fixture *f = *state;
	struct cow_create_options options = { .size_bytes = 2ull << 40,
					      .has_size = true,
					      .overwrite = true };
	struct cow_bitmap_change change = { .command = COW_BITMAP_ADD,
					    .name = "a",
					    .granularity_bits = 9 };
	assert_int_equal(cow_create(&f->m->host, &f->m->loop, "/disk", &options, &f->err), 0);
	assert_int_equal(run(f, &change), 0);
	change.name = "b";
	assert_int_equal(run(f, &change), -EFBIG);
	assert_non_null(strstr(f->err.text, "larger than 512 MiB together"));
	f->err = (struct cow_error){ 0 };
	change.disabled = true;
	assert_int_equal(run(f, &change), 0);
	change.command = COW_BITMAP_ENABLE;
	assert_int_equal(run(f, &change), -EFBIG);
	f->err = (struct cow_error){ 0 };
}

int main(void)
{
	cow_log_set_sink(quiet, COW_LOG_ERR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(commands, setup, teardown),
		cmocka_unit_test_setup_teardown(inconsistent, setup, teardown),
		cmocka_unit_test_setup_teardown(no_room, setup, teardown),
		cmocka_unit_test_setup_teardown(invalid_extension, setup, teardown),
		cmocka_unit_test_setup_teardown(failures, setup, teardown),
		cmocka_unit_test_setup_teardown(full_host, setup, teardown),
		cmocka_unit_test_setup_teardown(full_host_of_a_device, setup, teardown),
		cmocka_unit_test_setup_teardown(failing_sessions, setup, teardown),
		cmocka_unit_test_setup_teardown(short_last_cluster, setup, teardown),
		cmocka_unit_test_setup_teardown(no_room_at_close, setup, teardown),
		cmocka_unit_test_setup_teardown(too_much_in_all, setup, teardown),
		cmocka_unit_test_setup_teardown(too_many, setup, teardown),
		cmocka_unit_test_setup_teardown(one_too_many, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
