/* SPDX-License-Identifier: MIT */
/*
 * What io.c makes of short, interrupted and paused transfers, with a body that only says what it is
 * told.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/loop/guest.h"
#include "engine/loop/io.h"
#include "engine/loop/loop.h"

struct script {
	struct cow_loop base;
	const int64_t *results;
	unsigned nr, next;
};

static void script_start(struct cow_loop *loop, struct cow_io *io)
{
	struct script *s = (struct script *)loop;
	s->next++;
}

static const struct cow_loop_ops script_ops = { .start = script_start };

static void short_done(struct cow_io *io)
{
	io->done = NULL;
}

static int play(struct cow_file *file, enum cow_io_kind kind, char *buf, const int64_t *results,
		unsigned nr)
{
	struct script s = { .results = results, .nr = nr };
	struct cow_io io;
	cow_loop_init(&s.base, &script_ops);
	cow_io_prep(&io, kind, file, 0, 2048, short_done);
	io.nr_vec = 2;
	io.vec[0] = (struct iovec){ buf, 1024 };
	io.vec[1] = (struct iovec){ buf + 1024, 1024 };
	cow_loop_submit(&s.base, &io);
	for (unsigned i = 0; i < nr; i++) {
		assert_non_null(io.done);
		assert_int_equal(s.next, i + 1); /* started once more for each result */
		cow_io_raw_done(&io, results[i]);
	}
	assert_null(io.done);
	return io.result;
}

/*
 * Where the file once was longer there are no zeros to read, even if a write makes it long again.
 */
static void test_cut(void **state)
{
	struct cow_file file = { .size_bytes = 700 };
	char buf[2048];
	static const int64_t end[] = { 700, 0 }, cut[] = { 600, 0 }, all[] = { 2048 };
	assert_int_equal(play(&file, COW_IO_READ, buf, end, 2), 0);
	assert_false(cow_file_is_cut(&file));
	assert_int_equal(play(&file, COW_IO_READ, buf, cut, 2), -EIO);
	assert_int_equal(file.lost_from, 600);
	assert_int_equal(play(&file, COW_IO_WRITE, buf, all, 1), 0);
	memset(buf, 1, sizeof(buf));
	assert_int_equal(play(&file, COW_IO_READ, buf, all, 1), -EIO);

	/*
	 * A write has made it long again: what is not zeros is what was there, the rest nobody
	 * knows.
	 */
	struct cow_file again = { .size_bytes = 4096, .lost_from = 4096 };
	assert_int_equal(play(&again, COW_IO_READ, buf, all, 1), 0);
	memset(buf + 512, 0, 512);
	assert_int_equal(play(&again, COW_IO_READ, buf, all, 1), -EIO);

	/* Its writer has cut off what nobody needs: zeros before that are what they always were. */
	struct cow_file shared = { .size_bytes = 4096, .unlocked = true };
	assert_int_equal(play(&shared, COW_IO_READ, buf, cut, 2), -EIO);
	assert_false(cow_file_is_cut(&shared));
	memset(buf, 0, sizeof(buf));
	assert_int_equal(play(&shared, COW_IO_READ, buf, all, 1), 0);

	/* Longer since the read began: it may have met the end that was there then. */
	struct cow_file grows = { .size_bytes = 600 };
	struct script s = { .results = cut, .nr = 2 };
	struct cow_io io;
	cow_loop_init(&s.base, &script_ops);
	cow_io_prep_rw(&io, COW_IO_READ, &grows, 0, buf, 2048, short_done);
	cow_loop_submit(&s.base, &io);
	cow_file_grown(&grows, 4096);
	cow_io_raw_done(&io, 600);
	cow_io_raw_done(&io, 0);
	assert_int_equal(io.result, 0);
	assert_false(cow_file_is_cut(&grows));
}

static void test_short(void **state)
{
	struct cow_file written = { 0 }, buffered = { 0 }, direct = { .direct = true };
	char buf[2048];
	static const int64_t resumed[] = { -EINTR, 512, -EAGAIN, 1024, 512 };
	assert_int_equal(play(&written, COW_IO_WRITE, buf, resumed, 5), 0);
	assert_int_equal(written.size_bytes, 2048);
	static const int64_t refused[] = { -EAGAIN };
	assert_int_equal(play(&written, COW_IO_SYNC, buf, refused, 1), -EAGAIN);
	static const int64_t odd[] = { 5, 2043 };
	assert_int_equal(play(&buffered, COW_IO_READ, buf, odd, 2), 0);
	static const int64_t again[] = { 1025, 1024 };
	assert_int_equal(play(&direct, COW_IO_READ, buf, again, 2), 0); /* from 1024 on again */
	memset(buf, 1, sizeof(buf));
	static const int64_t end[] = { 600, 0 };
	assert_int_equal(play(&buffered, COW_IO_READ, buf, end, 2), 0);
	assert_int_equal(buf[599], 1);
	assert_int_equal(buf[600], 0);
	assert_int_equal(buf[2047], 0);
	memset(buf, 1, sizeof(buf));
	static const int64_t direct_end[] = { 1100, 76 };
	assert_int_equal(play(&direct, COW_IO_READ, buf, direct_end, 2), 0);
	assert_int_equal(buf[1099], 1);
	assert_int_equal(buf[1100], 0);
	static const int64_t full[] = { 1024, 0 };
	assert_int_equal(play(&buffered, COW_IO_WRITE, buf, full, 2), -ENOSPC);
	static const int64_t failed[] = { 512, -EIO };
	assert_int_equal(play(&buffered, COW_IO_WRITE, buf, failed, 2), -EIO);
}

static void timer_start(struct cow_loop *loop, struct cow_io *io)
{
	script_start(loop, io);
	if (io->kind == COW_IO_TIMER)
		io->progress_bytes =
			UINT64_MAX; /* as loop_plain.c does: a body's timer may use it */
}

/* After a pause the I/O goes on where it was, whatever the body used for its timer. */
static void test_paused(void **state)
{
	static const struct cow_loop_ops ops = { .start = timer_start };
	struct script s = { 0 };
	struct cow_file file = { .size_bytes = 8192 };
	struct cow_io io;
	char buf[2048];
	cow_loop_init(&s.base, &ops);
	cow_io_prep_rw(&io, COW_IO_READ, &file, 4096, buf, sizeof(buf), short_done);
	cow_loop_submit(&s.base, &io);
	cow_io_raw_done(&io, 512);
	cow_io_raw_done(&io, -EAGAIN);
	cow_io_raw_done(&io, -EAGAIN);
	assert_int_equal(io.kind, COW_IO_TIMER);
	cow_io_raw_done(&io, 0);
	assert_int_equal(io.kind, COW_IO_READ);
	assert_int_equal(io.offset, 4096);
	assert_int_equal(io.progress_bytes, 512);
	cow_io_raw_done(&io, 1536);
	assert_int_equal(io.result, 0);
}

struct pages {
	struct cow_guest guest;
	uint64_t off, bytes; /* of the last store */
	int error;
};

static int note_store(const struct cow_guest *guest, uint64_t off, uint64_t bytes)
{
	struct pages *p = (struct pages *)(uintptr_t)guest;
	p->off = off;
	p->bytes = bytes;
	return p->error;
}

static int read_to_guest(struct pages *p, struct cow_file *file, uint64_t bytes, int64_t first)
{
	struct script s = { 0 };
	struct cow_io io;
	cow_loop_init(&s.base, &script_ops);
	cow_io_prep_rw(&io, COW_IO_READ, file, 0, p->guest.base + 512, bytes, short_done);
	io.guest = &p->guest;
	cow_loop_submit(&s.base, &io);
	cow_io_raw_done(&io, first);
	if (io.done)
		cow_io_raw_done(&io, 0);
	assert_null(io.done);
	return io.result;
}

/* Zeros behind the end go to the pages; of a file that was cut nothing is believed unseen. */
static void test_guest(void **state)
{
	uint8_t base[4096];
	struct pages p = { .guest = { .base = base, .store = note_store } };
	struct cow_file file = { .size_bytes = 1024, .unlocked = true };
	memset(base, 1, sizeof(base));
	assert_int_equal(read_to_guest(&p, &file, 2048, 1024), 0);
	assert_int_equal(p.off, 512 + 1024);
	assert_int_equal(p.bytes, 1024);
	assert_int_equal(base[511 + 1024], 1);
	assert_int_equal(base[512 + 1024], 0);
	p.error = -EFAULT;
	assert_int_equal(read_to_guest(&p, &file, 2048, 1024), -EIO);
	struct cow_file cut = { .size_bytes = 4096, .lost_from = 4096 };
	assert_int_equal(read_to_guest(&p, &cut, 2048, 2048), -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_short),
		cmocka_unit_test(test_paused),
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_guest),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
