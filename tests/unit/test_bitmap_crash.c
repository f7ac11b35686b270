/* SPDX-License-Identifier: MIT */
/*
 * Power lost at any point of a change of the header, in all its layouts, and of a session that
 * writes.
 */
#include "engine/base/buf.h"
#include "engine/life/image.h"
#include "engine/life/live_bitmap.h"
#include "engine/request/kind.h"
#include "tests/unit/bitmap_fixture.h"

/* ---- the header ---- */

static void crash_all(struct fixture *f, int gap, uint32_t most)
{
	struct memory_host *m = f->m;
	uint8_t *after = malloc(m->size);
	uint64_t size = m->size;
	memcpy(after, m->bytes, size);
	for (unsigned end = 0; end <= f->nr_events; end++) {
		for (unsigned i = 0; i < 3; i++) {
			lose_power(f, end);
			assert_header(f, gap, most);
		}
	}
	memset(m->bytes, 0, m->size);
	memcpy(m->bytes, after, size);
	m->size = size;
	free(after);
}

static void step(struct fixture *f, enum cow_bitmap_command what, const char *name, int gap,
		 uint32_t nr)
{
	begin_recording(f);
	must(f, what, name);
	f->m->hook = NULL;
	assert_int_equal(nr_bitmaps(f), nr);
	assert_header(f, gap, nr);
	crash_all(f, gap, 2);
	assert_int_equal(nr_bitmaps(f), nr);
	assert_memory_equal(f->m->bytes + 128, "\x5a\x5a\x5a\x5a", 4); /* what is unknown is kept */
}

static void layouts(void **state)
{
	struct fixture *f = *state;
	const int gaps[] = { -1, 0, 3, 16, 48 };
	for (uint32_t bytes = 8; bytes < 420; bytes += bytes >= 320 && bytes < 400 ? 8 : 72) {
		for (unsigned i = 0; i < sizeof(gaps) / sizeof(gaps[0]); i++) {
			lay_out(f, bytes, gaps[i], bytes & 8);
			step(f, COW_BITMAP_ADD, "a", gaps[i], 1);
			step(f, COW_BITMAP_ADD, "b", gaps[i], 2);
			step(f, COW_BITMAP_REMOVE, "a", gaps[i], 1);
			step(f, COW_BITMAP_REMOVE, "b", gaps[i], 0);
			step(f, COW_BITMAP_ADD, "c", gaps[i], 1);
		}
	}
}

/* ---- a session ---- */

/* Contents at the moments when bitmap a was clear. */
struct session {
	uint8_t *cleared[2];
};

static void run_session(struct fixture *f, struct session *s)
{
	struct cow_bitmap_change clear = { .command = COW_BITMAP_CLEAR, .name = "a" };
	struct cow_image *image = open_image(f, true);
	assert_int_equal(put(f, image, 0, 8192, 11), 0);
	assert_int_equal(put(f, image, 100 << 10, 3072, 12), 0);
	s->cleared[1] = cow_buf_alloc(DISK_BYTES);
	assert_int_equal(do_op(f, image, COW_OP_READ, 0, DISK_BYTES, s->cleared[1]), 0);
	assert_int_equal(cow_image_change_bitmaps(image, &f->m->loop, &clear, NULL, &f->err), 0);
	assert_int_equal(put(f, image, 64 << 10, 8192, 13), 0);
	assert_int_equal(do_op(f, image, COW_OP_DISCARD, 4096, 4096, NULL), 0);
	assert_int_equal(do_op(f, image, COW_OP_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(do_op(f, image, COW_OP_WRITE_ZEROES, 32 << 10, 5120, NULL), 0);
	assert_int_equal(put(f, image, 200 << 10, 512, 14), 0);
	assert_int_equal(cow_image_close(image, &f->m->loop, &f->err), 0);
}

static unsigned assert_honest(struct fixture *f, const struct session *s)
{
	const char *dirty = dump(f, "a");
	assert_sound(f);
	assert_non_null(dump(f, "off"));
	if (!(dirty = dump(f, "a")))
		return 0;
	uint8_t *now = content(f);
	if (!covered(s->cleared[0], now, dirty) && !covered(s->cleared[1], now, dirty))
		fail_msg("a bitmap that is not in use covers less than what was written: %s",
			 dirty);
	free(now);
	return 1;
}

static void sessions(void **state)
{
	struct fixture *f = *state;
	struct session s = { { NULL } };
	unsigned believed = 0;
	create(f);
	write_closed(f, 0, 64 << 10, 1);
	must(f, COW_BITMAP_ADD, "a");
	must(f, COW_BITMAP_ADD, "off");
	must(f, COW_BITMAP_DISABLE, "off");
	s.cleared[0] = content(f);
	write_closed(f, 48 << 10, 512, 2);
	begin_recording(f);
	run_session(f, &s);
	f->m->hook = NULL;
	assert_memory_equal(dump(f, "a"), ".#......##......##..............", 32);
	assert_memory_equal(dump(f, "a") + 50, "#", 1);
	assert_int_equal(assert_sound(f), 0);
	for (unsigned end = 0; end <= f->nr_events; end++) {
		for (unsigned i = 0; i < 5; i++) {
			lose_power(f, end);
			believed += assert_honest(f, &s);
		}
	}
	assert_true(believed > 20); /* before the start, around the live command, at the end */
	free(s.cleared[0]);
	free(s.cleared[1]);
}

/* ---- a full host ---- */

/* No room for a new copy when the image is closed: the old one is overwritten, then believed. */
static void full_host(void **state)
{
	struct fixture *f = *state;
	struct session s = { { NULL } };
	unsigned believed = 0;
	create(f);
	write_closed(f, 0, 64 << 10, 1);
	must(f, COW_BITMAP_ADD, "a");
	must(f, COW_BITMAP_ADD, "off");
	must(f, COW_BITMAP_DISABLE, "off");
	s.cleared[0] = s.cleared[1] = content(f);
	begin_recording(f);
	struct cow_image *image = open_image(f, true);
	assert_int_equal(put(f, image, 4096, 8192, 11), 0);
	assert_int_equal(do_op(f, image, COW_OP_FLUSH, 0, 0, NULL), 0);
	f->m->limit = f->m->used;
	assert_int_equal(cow_image_close(image, &f->m->loop, &f->err), 0);
	f->m->hook = NULL;
	f->m->limit = MEMORY_MAX_BYTES;
	assert_memory_equal(dump(f, "a"), "################################", 32);
	for (unsigned end = 0; end <= f->nr_events; end++) {
		for (unsigned i = 0; i < 20; i++) {
			lose_power(f, end);
			believed += assert_honest(f, &s);
		}
	}
	assert_true(believed > 20); /* before the start, and at the end */
	free(s.cleared[0]);
}

int main(void)
{
	cow_log_set_sink(quiet, COW_LOG_ERR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(layouts, setup, teardown),
		cmocka_unit_test_setup_teardown(sessions, setup, teardown),
		cmocka_unit_test_setup_teardown(full_host, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
