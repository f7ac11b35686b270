/* SPDX-License-Identifier: MIT */
/*
 * The loop over plain system calls: for tools where io_uring is forbidden, for valgrind and for the
 * first steps of a debugging session. I/O is queued by start() and executed one by one by drain(),
 * in order.
 *
 * An eventfd carries wakes; it is what a drain with nothing to do sleeps on, until the next timer
 * is due.
 */
#include "engine/loop/loop_plain.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/host/system.h"

struct sync_loop {
	struct cow_loop base; /* first */
	int wake_fd;
	struct cow_io *head, **tail; /* started, not executed yet */
	struct cow_io *timers;	     /* unsorted: there are few; progress_bytes is the due time */
};

static struct sync_loop *sync_of(struct cow_loop *loop)
{
	return (struct sync_loop *)loop;
}

static uint64_t sync_now(struct cow_loop *loop)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void sync_start(struct cow_loop *loop, struct cow_io *io)
{
	struct sync_loop *s = sync_of(loop);
	if (io->kind == COW_IO_TIMER) {
		io->progress_bytes = sync_now(loop) + io->offset;
		io->next = s->timers;
		s->timers = io;
		return;
	}
	io->next = NULL;
	*s->tail = io;
	s->tail = &io->next;
}

static int64_t execute(const struct cow_io *io)
{
	int fd = cow_host_fd(io->file);
	off_t off = (off_t)(io->offset + io->progress_bytes);
	int64_t ret = -1;

	cow_assert(!io->guest); /* only a ring reaches its pages */
	errno = EINVAL;
	switch (io->kind) {
	case COW_IO_READ:
		ret = preadv(fd, io->vec, (int)io->nr_vec, off);
		break;
	case COW_IO_WRITE:
		ret = pwritev(fd, io->vec, (int)io->nr_vec, off);
		break;
	case COW_IO_SYNC:
		ret = fdatasync(fd);
		break;
	case COW_IO_PUNCH:
		ret = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off,
				(off_t)io->length);
		break;
	case COW_IO_RESIZE:
		if (io->file->block_device)
			return -ENOTSUP;
		ret = ftruncate(fd, off);
		break;
	case COW_IO_TIMER:
		break;
	}
	return ret < 0 ? -errno : ret;
}

/*
 * Executes what was queued when it began; what the done functions start waits for the next drain.
 */
static bool execute_queued(struct sync_loop *s)
{
	struct cow_io *io = s->head;
	bool any = io != NULL;
	s->head = NULL;
	s->tail = &s->head;
	while (io) {
		struct cow_io *next = io->next;
		cow_io_raw_done(io, execute(io));
		io = next;
	}
	return any;
}

static bool fire_timers(struct sync_loop *s)
{
	if (!s->timers)
		return false;
	uint64_t now = sync_now(&s->base);
	struct cow_io *due = NULL, **link = &s->timers;
	while (*link) {
		struct cow_io *io = *link;
		if (io->progress_bytes > now) {
			link = &io->next;
			continue;
		}
		*link = io->next;
		io->next = due;
		due = io;
	}
	bool any = due != NULL;
	while (due) {
		struct cow_io *next = due->next;
		cow_io_raw_done(due, 0);
		due = next;
	}
	return any;
}

/* Sleeps until a wake, the next timer or a signal; without wait only takes wakes. */
static void sleep_or_poll(struct sync_loop *s, bool wait)
{
	uint64_t next = UINT64_MAX;
	for (struct cow_io *io = s->timers; io; io = io->next)
		next = io->progress_bytes < next ? io->progress_bytes : next;
	struct timespec timeout = { 0, 0 };
	uint64_t now = sync_now(&s->base);
	if (wait && next > now) {
		timeout.tv_sec = (time_t)((next - now) / 1000000000u);
		timeout.tv_nsec = (long)((next - now) % 1000000000u);
	}
	struct pollfd pfd = { .fd = s->wake_fd, .events = POLLIN };
	if (ppoll(&pfd, 1, wait && next == UINT64_MAX ? NULL : &timeout, NULL) == 1) {
		uint64_t count;
		ssize_t n = read(s->wake_fd, &count, sizeof(count));
		cow_assert(n == sizeof(count) || errno == EAGAIN || errno == EINTR);
	}
}

static int sync_drain(struct cow_loop *loop, bool wait)
{
	struct sync_loop *s = sync_of(loop);
	bool any = execute_queued(s);
	any |= fire_timers(s);
	sleep_or_poll(s, wait && !any);
	fire_timers(s);
	return 0;
}

static void sync_wake(struct cow_loop *loop)
{
	uint64_t one = 1;
	ssize_t n = write(sync_of(loop)->wake_fd, &one, sizeof(one));
	cow_assert(n == sizeof(one) || errno == EAGAIN);
}

static void sync_free(struct cow_loop *loop)
{
	struct sync_loop *s = sync_of(loop);
	cow_assert(!s->head);
	close(s->wake_fd);
	free(s);
}

static const struct cow_loop_ops sync_ops = {
	.start = sync_start,
	.drain = sync_drain,
	.wake = sync_wake,
	.now = sync_now,
	.free = sync_free,
};

int cow_loop_plain_new(struct cow_loop **out)
{
	struct sync_loop *s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake_fd < 0) {
		int ret = -errno;
		free(s);
		return ret;
	}
	s->tail = &s->head;
	cow_loop_init(&s->base, &sync_ops);
	*out = &s->base;
	return 0;
}
