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

/* Power goes before each change and each sync of the command in turn. */
static void crash_all(struct fixture *f, enum cow_bitmap_command what, const char *name, int gap)
{
	bool again = true;
	for (unsigned i = 0; again; i++) {
		restore(f);
		memory_power_off_after(f->m, i / 3);
		succeeded(f, command(f, what, name));
		again = f->m->powered_off;
		memory_power_on(f->m);
		assert_header(f, gap, 2);
	}
	restore(f);
}

static void step(struct fixture *f, enum cow_bitmap_command what, const char *name, int gap,
		 uint32_t nr)
{
	keep(f);
	crash_all(f, what, name, gap);
	must(f, what, name);
	assert_int_equal(nr_bitmaps(f), nr);
	assert_header(f, gap, nr);
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

/* ---- a full host refuses the header ---- */

struct refusal {
	struct memory_host *m;
	bool does; /* some refuse a write, and have done it */
};

static int64_t refuse_header(void *ctx, const struct cow_io *io)
{
	const struct refusal *r = ctx;
	bool extension = io->offset < CLUSTER && io->length < 512;
	if (io->kind != COW_IO_WRITE || !extension)
		return 0;
	if (r->does)
		memcpy(r->m->bytes + io->offset, io->vec[0].iov_base, io->vec[0].iov_len);
	return -ENOSPC;
}

/* Only who has seen the old one there knows that it is. */
static void refused(void **state)
{
	struct fixture *f = *state;
	struct refusal r = { .m = f->m };
	create(f);
	f->m->fault = refuse_header;
	f->m->ctx = &r;
	assert_int_equal(command(f, COW_BITMAP_ADD, "a"), -ENOSPC);
	assert_int_equal(nr_bitmaps(f), 0);
	r.does = true;
	assert_int_equal(command(f, COW_BITMAP_ADD, "a"), -ENOTRECOVERABLE);
	f->m->fault = NULL;
	assert_sound(f);
}

/* ---- a session ---- */

/* Contents at the moments when bitmap a was clear. */
struct session {
	uint8_t *cleared[2];
};

static void write_some(struct fixture *f, struct cow_image *image, struct session *s)
{
	struct cow_bitmap_change clear = { .command = COW_BITMAP_CLEAR, .name = "a" };
	struct cow_loop *loop = &f->m->loop;
	succeeded(f, put(f, image, 0, 8192, 11));
	succeeded(f, put(f, image, 100 << 10, 3072, 12));
	if (!f->m->powered_off)
		succeeded(f, do_op(f, image, COW_OP_READ, 0, DISK_BYTES, s->cleared[1]));
	succeeded(f, cow_image_change_bitmaps(image, loop, &clear, NULL, &f->err));
	succeeded(f, put(f, image, 64 << 10, 8192, 13));
	succeeded(f, do_op(f, image, COW_OP_DISCARD, 4096, 4096, NULL));
	succeeded(f, do_op(f, image, COW_OP_FLUSH, 0, 0, NULL));
	succeeded(f, do_op(f, image, COW_OP_WRITE_ZEROES, 32 << 10, 5120, NULL));
	succeeded(f, put(f, image, 200 << 10, 512, 14));
	succeeded(f, cow_image_close(image, loop, &f->err));
}

static void run_session(struct fixture *f, struct session *s)
{
	struct cow_image *image = open_image(f, true);
	if (image)
		write_some(f, image, s);
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

/* Each loss of power in a session, so often. How many bitmaps were believed after one. */
static unsigned crash_session(struct fixture *f, struct session *s,
			      void (*session)(struct fixture *f, struct session *s), unsigned times)
{
	unsigned believed = 0;
	bool again = true;
	for (unsigned i = 0; again; i++) {
		restore(f);
		memory_power_off_after(f->m, i / times);
		session(f, s);
		again = f->m->powered_off;
		memory_power_on(f->m);
		believed += assert_honest(f, s);
	}
	return believed;
}

static void create_with_bitmaps(struct fixture *f)
{
	create(f);
	write_closed(f, 0, 64 << 10, 1);
	must(f, COW_BITMAP_ADD, "a");
	must(f, COW_BITMAP_ADD, "off");
	must(f, COW_BITMAP_DISABLE, "off");
}

static void sessions(void **state)
{
	struct fixture *f = *state;
	struct session s = { { NULL } };
	create_with_bitmaps(f);
	s.cleared[0] = content(f);
	write_closed(f, 48 << 10, 512, 2);
	s.cleared[1] = cow_buf_alloc(DISK_BYTES);
	keep(f);
	run_session(f, &s);
	assert_memory_equal(dump(f, "a"), ".#......##......##..............", 32);
	assert_memory_equal(dump(f, "a") + 50, "#", 1);
	assert_int_equal(assert_sound(f), 0);
	assert_true(crash_session(f, &s, run_session, 5) >
		    20); /* before the start, around the live command, at the end */
	free(s.cleared[0]);
	free(s.cleared[1]);
}

/* ---- a full host ---- */

static void run_full_session(struct fixture *f, struct session *s)
{
	struct cow_image *image = open_image(f, true);
	if (!image)
		return;
	succeeded(f, put(f, image, 4096, 8192, 11));
	succeeded(f, do_op(f, image, COW_OP_FLUSH, 0, 0, NULL));
	f->m->limit = f->m->file->now.used_bytes;
	succeeded(f, cow_image_close(image, &f->m->loop, &f->err));
	f->m->limit = MEMORY_MAX_BYTES;
}

/* No room for a new copy when the image is closed: the old one is overwritten, then believed. */
static void full_host(void **state)
{
	struct fixture *f = *state;
	struct session s = { { NULL } };
	create_with_bitmaps(f);
	s.cleared[0] = s.cleared[1] = content(f);
	keep(f);
	run_full_session(f, &s);
	assert_memory_equal(dump(f, "a"), "################################", 32);
	assert_true(crash_session(f, &s, run_full_session, 20) >
		    20); /* before the start, and at the end */
	free(s.cleared[0]);
}

int main(void)
{
	cow_log_set_sink(quiet, COW_LOG_ERR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(layouts, setup, teardown),
		cmocka_unit_test_setup_teardown(refused, setup, teardown),
		cmocka_unit_test_setup_teardown(sessions, setup, teardown),
		cmocka_unit_test_setup_teardown(full_host, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
