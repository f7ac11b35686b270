/* SPDX-License-Identifier: MIT */
/* Both real bodies of loop.h against the same expectations, and the host files under them. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/buf.h"
#include "engine/host/system.h"
#include "engine/loop/blocking.h"
#include "engine/loop/loop.h"
#include "engine/loop/loop_plain.h"
#include "engine/loop/loop_uring.h"

struct fixture {
	char dir[64], path[96];
	struct cow_loop *loop;
	struct cow_file *file;
};

static int setup_with(void **state, int (*make)(struct cow_loop **))
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->dir, "/tmp/cow-test-loop-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/file", f->dir);
	int ret = make(&f->loop);
	if (ret == -ENOSYS || ret == -EPERM)
		f->loop = NULL; /* io_uring is forbidden here: every test skips */
	else
		assert_int_equal(ret, 0);
	struct cow_error err = { 0 };
	assert_int_equal(cow_host_system()->ops->open(cow_host_system(), f->path, COW_OPEN_CREATE,
						      &f->file, &err),
			 0);
	*state = f;
	return 0;
}

static int make_uring(struct cow_loop **out)
{
	return cow_loop_uring_new(8, out);
}

static int setup_sync(void **state)
{
	return setup_with(state, cow_loop_plain_new);
}

static int setup_uring(void **state)
{
	return setup_with(state, make_uring);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	f->file->host->ops->close(f->file);
	unlink(f->path);
	rmdir(f->dir);
	cow_loop_free(f->loop);
	free(f);
	return 0;
}

static struct fixture *fixture_of(void **state)
{
	struct fixture *f = *state;
	if (!f->loop)
		skip();
	return f;
}

static void fill(void *buf, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++)
		((unsigned char *)buf)[i] = (unsigned char)(seed + i * 7 + i / 251);
}

static void test_write_read(void **state)
{
	struct fixture *f = fixture_of(state);
	size_t bytes = 1 << 20;
	char *out = cow_buf_alloc(bytes), *in = cow_buf_alloc(bytes);
	fill(out, bytes, 3);
	assert_int_equal(cow_loop_write(f->loop, f->file, 4096, out, bytes), 0);
	assert_int_equal(f->file->size_bytes, 4096 + bytes);
	assert_int_equal(cow_loop_sync(f->loop, f->file), 0);
	assert_int_equal(cow_loop_read(f->loop, f->file, 4096, in, bytes), 0);
	assert_memory_equal(in, out, bytes);
	free(out);
	free(in);
}

/* Direct files bounce what is not aligned; the neighbours must live. */
static void test_unaligned(void **state)
{
	struct fixture *f = fixture_of(state);
	char *base = cow_buf_alloc(4096), *in = cow_buf_alloc(4096);
	fill(base, 4096, 9);
	assert_int_equal(cow_loop_write(f->loop, f->file, 0, base, 4096), 0);
	char piece[700];
	memset(piece, 0x5a, sizeof(piece));
	assert_int_equal(cow_loop_write(f->loop, f->file, 333, piece, sizeof(piece)), 0);
	memcpy(base + 333, piece, sizeof(piece));
	assert_int_equal(cow_loop_read(f->loop, f->file, 1, in + 1, 4000), 0);
	assert_memory_equal(in + 1, base + 1, 4000);
	free(base);
	free(in);
}

static void test_read_past_end(void **state)
{
	struct fixture *f = fixture_of(state);
	char *buf = cow_buf_alloc(8192);
	memset(buf, 0xee, 8192);
	assert_int_equal(cow_loop_write(f->loop, f->file, 0, buf, 4096), 0);
	assert_int_equal(cow_loop_resize(f->loop, f->file, 1000), 0);
	memset(buf, 0x11, 8192);
	assert_int_equal(cow_loop_read(f->loop, f->file, 0, buf, 8192), 0);
	for (size_t i = 0; i < 8192; i++)
		assert_int_equal((unsigned char)buf[i], i < 1000 ? 0xee : 0);
	assert_int_equal(cow_loop_read(f->loop, f->file, 1 << 20, buf, 4096), 0);
	for (size_t i = 0; i < 4096; i++)
		assert_int_equal(buf[i], 0);
	free(buf);
}

static void test_punch_resize(void **state)
{
	struct fixture *f = fixture_of(state);
	struct stat st;
	char *buf = cow_buf_alloc(1 << 16);
	memset(buf, 0xab, 1 << 16);
	assert_int_equal(cow_loop_write(f->loop, f->file, 0, buf, 1 << 16), 0);
	int ret = cow_loop_punch(f->loop, f->file, 8192, 16384);
	if (ret == -EOPNOTSUPP)
		goto out; /* a file system without holes */
	assert_int_equal(ret, 0);
	assert_int_equal(cow_loop_read(f->loop, f->file, 4096, buf, 8192), 0);
	assert_int_equal((unsigned char)buf[4095], 0xab);
	assert_int_equal(buf[4096], 0);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_size, 1 << 16); /* size is kept */
	assert_int_equal(cow_loop_resize(f->loop, f->file, 3 << 20), 0);
	assert_int_equal(f->file->size_bytes, 3 << 20);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_size, 3 << 20);
out:
	free(buf);
}

static void test_error(void **state)
{
	struct fixture *f = fixture_of(state);
	struct cow_file *ro;
	struct cow_error err = { 0 };
	char *buf = cow_buf_alloc(4096);
	assert_int_equal(
		f->file->host->ops->open(f->file->host, f->path, COW_OPEN_NO_LOCK, &ro, &err), 0);
	assert_int_equal(cow_loop_write(f->loop, ro, 0, buf, 4096), -EBADF);
	ro->host->ops->close(ro);
	free(buf);
}

/* ---- many at once ---- */

#define MANY 5000

struct many {
	struct cow_io io;
	struct many_ctx *ctx;
	unsigned idx;
};

struct many_ctx {
	unsigned left;
	bool done;
	bool inside_submit;
};

static void many_done(struct cow_io *io)
{
	struct many *m = (struct many *)io;
	assert_int_equal(io->result, 0);
	assert_false(m->ctx->inside_submit);
	if (!--m->ctx->left)
		m->ctx->done = true;
}

/* Far more than the ring has entries, SQ and CQ, with vectors. */
static void test_many(void **state)
{
	struct fixture *f = fixture_of(state);
	struct many_ctx ctx = { .left = MANY };
	struct many *many = calloc(MANY, sizeof(*many));
	char *buf = cow_buf_alloc((size_t)MANY * 1024), *in = cow_buf_alloc((size_t)MANY * 1024);
	fill(buf, (size_t)MANY * 1024, 77);
	ctx.inside_submit = true;
	for (unsigned i = 0; i < MANY; i++) {
		many[i].ctx = &ctx;
		struct cow_io *io = &many[i].io;
		cow_io_prep(io, COW_IO_WRITE, f->file, (uint64_t)i * 1024, 1024, many_done);
		io->nr_vec = 2;
		io->vec[0] = (struct iovec){ buf + (size_t)i * 1024, 512 };
		io->vec[1] = (struct iovec){ buf + (size_t)i * 1024 + 512, 512 };
		cow_loop_submit(f->loop, io);
	}
	ctx.inside_submit = false;
	assert_int_equal(cow_loop_run_until(f->loop, &ctx.done), 0);
	f->file->size_bytes = (uint64_t)MANY * 1024;
	assert_int_equal(cow_loop_read(f->loop, f->file, 0, in, (size_t)MANY * 1024), 0);
	assert_memory_equal(buf, in, (size_t)MANY * 1024);
	free(many);
	free(buf);
	free(in);
}

/* ---- time ---- */

struct timed {
	struct cow_io io;
	uint64_t at;
	bool done;
};

static void timed_done(struct cow_io *io)
{
	struct timed *t = (struct timed *)io;
	assert_int_equal(io->result, 0);
	t->at = cow_loop_now(io->loop);
	t->done = true;
}

static void test_timer(void **state)
{
	struct fixture *f = fixture_of(state);
	struct timed late = { 0 }, soon = { 0 };
	uint64_t start = cow_loop_now(f->loop);
	cow_io_prep(&late.io, COW_IO_TIMER, NULL, 60000000, 0, timed_done);
	cow_io_prep(&soon.io, COW_IO_TIMER, NULL, 20000000, 0, timed_done);
	cow_loop_submit(f->loop, &late.io);
	cow_loop_submit(f->loop, &soon.io);
	assert_int_equal(cow_loop_run_until(f->loop, &soon.done), 0);
	assert_false(late.done);
	assert_int_equal(cow_loop_run_until(f->loop, &late.done), 0);
	assert_true(soon.at - start >= 20000000);
	assert_true(late.at - start >= 60000000);
}

/* ---- messages ---- */

#define PINGS 2000

struct pinger {
	struct cow_msg msg;
	struct fixture *f;
	unsigned count;
	bool done;
	sig_atomic_t taken;
	pthread_t runner;
};

static void ping(struct cow_msg *msg)
{
	struct pinger *p = (struct pinger *)msg;
	assert_true(pthread_equal(pthread_self(), p->runner));
	p->done = ++p->count == PINGS;
	__atomic_store_n(&p->taken, 1, __ATOMIC_RELEASE);
}

static void *poster(void *arg)
{
	struct pinger *p = arg;
	for (unsigned i = 0; i < PINGS; i++) {
		while (!__atomic_exchange_n(&p->taken, 0, __ATOMIC_ACQUIRE))
			sched_yield();
		if (!(i % 64))
			usleep(200); /* let the loop fall asleep */
		cow_loop_post(p->f->loop, &p->msg);
	}
	return NULL;
}

/* A post to a sleeping loop wakes it, every time. A lost wake hangs: the alarm ends the test. */
static void test_post(void **state)
{
	struct fixture *f = fixture_of(state);
	struct pinger p = { .msg.fn = ping, .f = f, .taken = 1, .runner = pthread_self() };
	pthread_t thread;
	alarm(60);
	assert_int_equal(pthread_create(&thread, NULL, poster, &p), 0);
	assert_int_equal(cow_loop_run_until(f->loop, &p.done), 0);
	pthread_join(thread, NULL);
	alarm(0);
	assert_int_equal(p.count, PINGS);
}

static void *run_elsewhere(void *arg)
{
	struct fixture *f = arg;
	char *buf = cow_buf_alloc(4096);
	intptr_t ret = cow_loop_write(f->loop, f->file, 0, buf, 4096);
	free(buf);
	return (void *)ret;
}

/* Made here, owned there. */
static void test_other_owner(void **state)
{
	struct fixture *f = fixture_of(state);
	pthread_t thread;
	void *ret;
	assert_int_equal(pthread_create(&thread, NULL, run_elsewhere, f), 0);
	pthread_join(thread, &ret);
	assert_ptr_equal(ret, NULL);
}

/* A round without waiting returns at once, and a deferred message of the owner runs in it. */
static void deferred(struct cow_msg *msg)
{
	((struct pinger *)msg)->done = true;
}

static void test_defer(void **state)
{
	struct fixture *f = fixture_of(state);
	struct pinger p = { .msg.fn = deferred };
	assert_int_equal(cow_loop_poll(f->loop), 0);
	cow_loop_enter(f->loop);
	cow_loop_post(f->loop, &p.msg);
	assert_false(p.done);
	assert_int_equal(cow_loop_run(f->loop), 0);
	cow_loop_enter(NULL);
	assert_true(p.done);
}

/* ---- a guest of the ring ---- */

struct nop {
	struct cow_completion completion;
	int res;
	bool done;
};

static void nop_done(struct cow_completion *completion, int res, unsigned flags)
{
	struct nop *n = (struct nop *)completion;
	n->res = res;
	n->done = true;
}

static void test_foreign_sqe(void **state)
{
	struct fixture *f = fixture_of(state);
	struct nop nops[300] = { 0 };
	for (unsigned i = 0; i < 300; i++) {
		nops[i].completion.fn = nop_done;
		nops[i].res = -1;
		io_uring_prep_nop(cow_uring_sqe(f->loop, &nops[i].completion));
	}
	for (unsigned i = 0; i < 300; i++) {
		assert_int_equal(cow_loop_run_until(f->loop, &nops[i].done), 0);
		assert_int_equal(nops[i].res, 0);
	}
	assert_true(cow_uring_has_op(f->loop, IORING_OP_READ));
	assert_false(cow_uring_has_op(f->loop, 255));
}

/*
 * How long it is: what we wrote and resized, and no longer than it may be while it is being made
 * shorter.
 */
static void test_known_length(void **state)
{
	struct fixture *f = fixture_of(state);
	struct cow_file *file = f->file, *shared;
	uint64_t bytes;
	assert_int_equal(cow_loop_resize(f->loop, file, 1 << 20), 0);
	assert_int_equal(
		file->host->ops->open(file->host, f->path, COW_OPEN_NO_LOCK, &shared, NULL), 0);
	assert_int_equal(file->size_bytes, 1 << 20);
	assert_true(cow_file_is_whole(file));
	assert_true(file->host->ops->length(file, &bytes) && bytes == 1 << 20);
	assert_int_equal(cow_loop_resize(f->loop, file, 4096), 0);
	assert_int_equal(file->size_bytes, 4096);
	assert_true(cow_file_is_whole(file));
	assert_true(cow_file_is_whole(shared)); /* its writer is free to do that */
	file->host->ops->close(shared);
	assert_int_equal(truncate(file->path, 1000), 0);
	assert_false(cow_file_is_whole(file));
	assert_int_equal(truncate(file->path, 4096), 0);
	assert_false(cow_file_is_whole(file));
}

/* ---- host files ---- */

static int try_open(const char *path, unsigned flags, struct cow_error *err)
{
	struct cow_file *file;
	*err = (struct cow_error){ 0 };
	int ret = cow_host_system()->ops->open(cow_host_system(), path, flags, &file, err);
	if (!ret)
		file->host->ops->close(file);
	return ret;
}

static void test_open_refusals(void **state)
{
	struct fixture *f = *state;
	struct cow_error err;
	char path[128];
	assert_int_equal(try_open(f->dir, 0, &err), -EISDIR);
	assert_non_null(strstr(err.text, "is a directory"));
	assert_int_equal(try_open("/dev/null", 0, &err), -EINVAL);
	assert_non_null(strstr(err.text, "is a character device"));
	snprintf(path, sizeof(path), "%s/pipe", f->dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(try_open(path, 0, &err), -EINVAL);
	assert_non_null(strstr(err.text, "is a pipe"));
	unlink(path);
	assert_int_equal(try_open(path, 0, &err), -ENOENT);
	assert_int_equal(try_open(path, COW_OPEN_WRITE, &err), -ENOENT);
	assert_int_equal(try_open(f->path, COW_OPEN_CREATE, &err), -EEXIST);
}

static void test_create_truncate(void **state)
{
	struct fixture *f = *state;
	struct cow_error err;
	struct stat st;
	assert_int_equal(truncate(f->path, 12345), 0);
	/* In use by the fixture: must not be truncated. */
	assert_int_equal(try_open(f->path, COW_OPEN_CREATE | COW_OPEN_TRUNCATE, &err), -EBUSY);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_size, 12345);
	f->file->host->ops->close(f->file);
	assert_int_equal(try_open(f->path, COW_OPEN_CREATE | COW_OPEN_TRUNCATE, &err), 0);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_size, 0);
	assert_int_equal(cow_host_system()->ops->open(cow_host_system(), f->path, COW_OPEN_WRITE,
						      &f->file, &err),
			 0);
}

#define BOTH(t)                                                                                    \
	cmocka_unit_test_setup_teardown(t, setup_sync, teardown),                                  \
		cmocka_unit_test_setup_teardown(t, setup_uring, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_write_read),
		BOTH(test_unaligned),
		BOTH(test_read_past_end),
		BOTH(test_punch_resize),
		BOTH(test_error),
		BOTH(test_many),
		BOTH(test_timer),
		BOTH(test_post),
		BOTH(test_other_owner),
		BOTH(test_defer),
		cmocka_unit_test_setup_teardown(test_foreign_sqe, setup_uring, teardown),
		BOTH(test_known_length),
		cmocka_unit_test_setup_teardown(test_open_refusals, setup_sync, teardown),
		cmocka_unit_test_setup_teardown(test_create_truncate, setup_sync, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
