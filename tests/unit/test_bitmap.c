/* SPDX-License-Identifier: MIT */
/* Commands on dirty bitmaps, headers that have no room or name invalid ones, and an I/O failed at any point of a command or a session. */
#include "tests/unit/bitmap_fixture.h"

/* ---- commands ---- */

static int merge(struct fixture *f, const char *name, const char *source)
{
	const struct cow_bitmap_change change = { .command = COW_BITMAP_MERGE, .name = name, .sources = &source, .nr_sources = 1 };
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
	begin_recording(f);
	write_closed(f, 0, 512, 1);
	lose_power(f, f->nr_events / 2);
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
	uint64_t size = f->m->size;
	assert_int_equal(command(f, COW_BITMAP_ADD, "a"), -ENOSPC);
	assert_int_equal(f->m->size, size);
	assert_int_equal(assert_sound(f), 0);
}

/* A program that knows no bitmaps wrote to the image: what the extension names may be anything by now. */
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
static void fail_each(struct fixture *f, enum cow_bitmap_command what, const char *name, enum cow_io_kind kind, int error)
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
	begin_recording(f);
	f->m->hook = NULL;
	const enum cow_io_kind kinds[] = { COW_IO_READ, COW_IO_WRITE, COW_IO_SYNC, COW_IO_PUNCH };
	for (unsigned i = 0; i < 4; i++) {
		fail_each(f, COW_BITMAP_ADD, "c", kinds[i], i == 1 ? -ENOSPC : -EIO);
		fail_each(f, COW_BITMAP_REMOVE, "a", kinds[i], -EIO);
		fail_each(f, COW_BITMAP_CLEAR, "b", kinds[i], i == 1 ? -ENOSPC : -EIO);
	}
}

/* A session on a host that fails one I/O: what is not marked as in use is right all the same. */
static void failing_sessions(void **state)
{
	struct fixture *f = *state;
	create(f);
	must(f, COW_BITMAP_ADD, "a");
	begin_recording(f);
	f->m->hook = NULL;
	uint8_t *then = content(f);
	const enum cow_io_kind kinds[] = { COW_IO_READ, COW_IO_WRITE, COW_IO_SYNC };
	for (unsigned k = 0; k < 3; k++) {
		for (unsigned skip = 0; skip < 90; skip++) {
			struct cow_open_options options = { .writable = true, .reserve_bytes = 16 * CLUSTER };
			struct cow_image *image;
			restore(f);
			f->m->fail_kind = kinds[k];
			f->m->fail_error = -EIO;
			f->m->fail_skip = skip;
			if (!cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &image, NULL)) {
				put(f, image, 40960, 4096, 7);
				cow_image_close(image, &f->m->loop, NULL);
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

int main(void)
{
	cow_log_set_sink(quiet, COW_LOG_ERR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(commands, setup, teardown),
		cmocka_unit_test_setup_teardown(inconsistent, setup, teardown),
		cmocka_unit_test_setup_teardown(no_room, setup, teardown),
		cmocka_unit_test_setup_teardown(invalid_extension, setup, teardown),
		cmocka_unit_test_setup_teardown(failures, setup, teardown),
		cmocka_unit_test_setup_teardown(failing_sessions, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
