/* SPDX-License-Identifier: MIT */
/*
 * The loop over io_uring.
 *
 * start() only fills an SQE; drain() hands over everything and waits in one system call. CQEs are
 * copied out in batches before their functions run, so that these may start as much as they like.
 * The kernel keeps completions that do not fit into the CQ (IORING_FEAT_NODROP, demanded at
 * creation) and peeking flushes them in.
 *
 * Threads: made on any thread, disabled; the first use enables the ring and with
 * IORING_SETUP_SINGLE_ISSUER binds it to the calling thread, which is the owner from then on. Only
 * uring_wake() is called by others: it writes an eventfd that the ring always has a read armed on.
 */
#include "engine/loop/loop_uring.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/base/container.h"
#include "engine/host/system.h"
#include "engine/loop/guest.h"

/* Newer than the headers of Debian 12. */
#define OP_FTRUNCATE 55

#define MIN_ENTRIES 64u
#define MAX_ENTRIES 4096u
#define CQ_PER_SQ 4u
#define REAP_BATCH 64u

struct uring_loop {
	struct cow_loop base; /* first */
	struct io_uring ring;
	bool enabled;
	uint8_t has_op[256];
	/*
	 * resizes done inline because the kernel has no opcode for them, to be completed by the
	 * next drain
	 */
	struct cow_io *inline_head;
	int wake_fd;
	bool wake_armed;
	uint64_t wake_count;
	struct cow_completion wake_completion;
};

static struct uring_loop *uring_of(const struct cow_loop *loop)
{
	return (struct uring_loop *)(uintptr_t)loop;
}

/* By hand: liburing 2.3 declares functions for what is asked here without exporting them. */
static int register_ring(const struct uring_loop *u, unsigned what, void *arg, unsigned nr)
{
	return syscall(__NR_io_uring_register, u->ring.ring_fd, what, arg, nr) < 0 ? -errno : 0;
}

static void enable(struct uring_loop *u)
{
	if (u->enabled)
		return;
	int ret = register_ring(u, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	cow_assert(ret == 0);
	u->enabled = true;
}

/* ---- SQEs ---- */

/*
 * The kernel refuses SQEs only for a while (EAGAIN: no memory for a request, EBUSY: a backlog of
 * completions, which it keeps taking out of our way meanwhile). Any other error means that the ring
 * is not what we made.
 */
static struct io_uring_sqe *get_sqe(struct uring_loop *u, struct cow_completion *completion)
{
	enable(u);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
	while (!sqe) {
		int ret = io_uring_submit(&u->ring);
		cow_assert(ret >= 0 || ret == -EAGAIN || ret == -EBUSY || ret == -EINTR);
		if (ret <= 0)
			sched_yield();
		sqe = io_uring_get_sqe(&u->ring);
	}
	io_uring_sqe_set_data(sqe, completion);
	return sqe;
}

struct io_uring_sqe *cow_uring_sqe(struct cow_loop *loop, struct cow_completion *completion)
{
	return get_sqe(uring_of(loop), completion);
}

struct io_uring *cow_uring_ring(struct cow_loop *loop)
{
	enable(uring_of(loop));
	return &uring_of(loop)->ring;
}

bool cow_uring_is_quiet(struct cow_loop *loop)
{
	struct io_uring *ring = cow_uring_ring(loop);
	return (ring->flags & IORING_SETUP_DEFER_TASKRUN) && !io_uring_cq_ready(ring) &&
	       !(IO_URING_READ_ONCE(*ring->sq.kflags) & IORING_SQ_CQ_OVERFLOW);
}

unsigned cow_uring_place(struct cow_loop *loop)
{
	return cow_uring_ring(loop)->sq.sqe_tail;
}

bool cow_uring_is_submitted(struct cow_loop *loop, unsigned place)
{
	return (int)(IO_URING_READ_ONCE(*cow_uring_ring(loop)->sq.khead) - place) >= 0;
}

bool cow_uring_has_op(const struct cow_loop *loop, unsigned opcode)
{
	return opcode < 256 && uring_of(loop)->has_op[opcode];
}

static void io_completed(struct cow_completion *completion, int res, unsigned flags)
{
	struct cow_io *io = cow_container_of(completion, struct cow_io, completion);
	if (io->kind == COW_IO_TIMER && res == -ETIME)
		res = 0;
	cow_io_raw_done(io, res);
}

/* The kernel takes an offset in the registered buffer for the address. */
static void prep_guest(struct io_uring_sqe *sqe, struct cow_io *io)
{
	uint64_t at = (uint64_t)((uint8_t *)io->vec[0].iov_base - io->guest->base);
	cow_assert(io->nr_vec == 1);
	io_uring_prep_rw(io->kind == COW_IO_READ ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED,
			 sqe, cow_host_fd(io->file), (void *)(uintptr_t)at,
			 (unsigned)io->vec[0].iov_len, io->offset + io->progress_bytes);
	sqe->buf_index = (uint16_t)io->guest->index;
}

static void prep_rw(struct io_uring_sqe *sqe, struct cow_io *io)
{
	int fd = cow_host_fd(io->file);
	uint64_t off = io->offset + io->progress_bytes;
	bool read = io->kind == COW_IO_READ;
	if (io->nr_vec == 1)
		io_uring_prep_rw(read ? IORING_OP_READ : IORING_OP_WRITE, sqe, fd,
				 io->vec[0].iov_base, (unsigned)io->vec[0].iov_len, off);
	else
		io_uring_prep_rw(read ? IORING_OP_READV : IORING_OP_WRITEV, sqe, fd, io->vec,
				 io->nr_vec, off);
}

static void prep_timer(struct io_uring_sqe *sqe, struct cow_io *io)
{
	_Static_assert(sizeof(io->timespec) == sizeof(struct __kernel_timespec), "timespec layout");
	io->timespec[0] = (int64_t)(io->offset / 1000000000u);
	io->timespec[1] = (int64_t)(io->offset % 1000000000u);
	io_uring_prep_timeout(sqe, (struct __kernel_timespec *)(void *)io->timespec, 0, 0);
}

/* True if io went the slow way: a system call here, its completion with the next drain. */
static bool resize_inline(struct uring_loop *u, struct cow_io *io)
{
	if (io->kind != COW_IO_RESIZE || (u->has_op[OP_FTRUNCATE] && !io->file->block_device))
		return false;
	int ret = io->file->block_device ? -ENOTSUP : 0;
	if (!ret && ftruncate(cow_host_fd(io->file), (off_t)io->offset) < 0)
		ret = -errno;
	io->timespec[0] = ret;
	io->next = u->inline_head;
	u->inline_head = io;
	return true;
}

static void uring_start(struct cow_loop *loop, struct cow_io *io)
{
	struct uring_loop *u = uring_of(loop);
	if (resize_inline(u, io))
		return;
	io->completion.fn = io_completed;
	struct io_uring_sqe *sqe = get_sqe(u, &io->completion);
	switch (io->kind) {
	case COW_IO_READ:
	case COW_IO_WRITE:
		if (io->guest)
			prep_guest(sqe, io);
		else
			prep_rw(sqe, io);
		break;
	case COW_IO_SYNC:
		io_uring_prep_fsync(sqe, cow_host_fd(io->file), IORING_FSYNC_DATASYNC);
		break;
	case COW_IO_PUNCH: /* the length travels in addr, the mode in len */
		io_uring_prep_rw(IORING_OP_FALLOCATE, sqe, cow_host_fd(io->file), NULL,
				 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, io->offset);
		sqe->addr = io->length;
		break;
	case COW_IO_RESIZE:
		io_uring_prep_rw(OP_FTRUNCATE, sqe, cow_host_fd(io->file), NULL, 0, io->offset);
		break;
	case COW_IO_TIMER:
		prep_timer(sqe, io);
		break;
	}
}

/* ---- waking ---- */

static void woken(struct cow_completion *completion, int res, unsigned flags)
{
	struct uring_loop *u = (struct uring_loop *)((char *)completion -
						     offsetof(struct uring_loop, wake_completion));
	u->wake_armed = false;
}

static void arm_wake(struct uring_loop *u)
{
	if (u->wake_armed)
		return;
	struct io_uring_sqe *sqe = get_sqe(u, &u->wake_completion);
	io_uring_prep_rw(IORING_OP_READ, sqe, u->wake_fd, &u->wake_count, sizeof(u->wake_count), 0);
	u->wake_armed = true;
}

static void uring_wake(struct cow_loop *loop)
{
	uint64_t one = 1;
	ssize_t n = write(uring_of(loop)->wake_fd, &one, sizeof(one));
	cow_assert(n == sizeof(one) || errno == EAGAIN);
}

/* ---- draining ---- */

static unsigned reap_batch(struct uring_loop *u)
{
	struct io_uring_cqe *cqes[REAP_BATCH], copy[REAP_BATCH];
	unsigned n = io_uring_peek_batch_cqe(&u->ring, cqes, REAP_BATCH);
	for (unsigned i = 0; i < n; i++)
		copy[i] = *cqes[i];
	io_uring_cq_advance(&u->ring, n);
	u->base.in_batch = true;
	u->base.whole = NULL;
	for (unsigned i = 0; i < n; i++) {
		struct cow_completion *completion = io_uring_cqe_get_data(&copy[i]);
		completion->fn(completion, copy[i].res, copy[i].flags);
	}
	u->base.in_batch = false;
	return n;
}

static void finish_inline(struct uring_loop *u)
{
	while (u->inline_head) {
		struct cow_io *io = u->inline_head;
		u->inline_head = io->next;
		cow_io_raw_done(io, io->timespec[0]);
	}
}

static int enter(struct uring_loop *u, bool wait)
{
	int ret = wait ? io_uring_submit_and_wait(&u->ring, 1)
		       : io_uring_submit_and_get_events(&u->ring);
	if (ret == -EINTR || ret == -EAGAIN || ret == -EBUSY || ret == -ETIME)
		return 0; /* what is left in the SQ goes with the next round */
	return ret < 0 ? ret : 0;
}

static int uring_drain(struct cow_loop *loop, bool wait)
{
	struct uring_loop *u = uring_of(loop);
	enable(u);
	arm_wake(u);
	int ret = enter(u, wait && !u->inline_head);
	finish_inline(u);
	while (reap_batch(u) == REAP_BATCH)
		;
	return ret;
}

static uint64_t uring_now(struct cow_loop *loop)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- life ---- */

/* The best first; what a kernel does not know it answers with EINVAL. */
static const unsigned setup_flags[] = {
	IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL, /* 6.1 */
	IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL, /* 5.19 */
	0,
};

static int setup_ring(struct uring_loop *u, unsigned entries)
{
	int ret = -EINVAL;
	for (unsigned i = 0; i < sizeof(setup_flags) / sizeof(setup_flags[0]) && ret == -EINVAL;
	     i++) {
		struct io_uring_params p = { 0 };
		p.flags = setup_flags[i] | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE;
		p.cq_entries = entries * CQ_PER_SQ;
		ret = io_uring_queue_init_params(entries, &u->ring, &p);
	}
	if (!ret && !(u->ring.features & IORING_FEAT_NODROP)) {
		io_uring_queue_exit(&u->ring);
		return -ENOSYS;
	}
	return ret;
}

static int probe_ops(struct uring_loop *u)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(&u->ring);
	if (!probe)
		return -ENOMEM;
	for (unsigned i = 0; i < probe->ops_len; i++)
		u->has_op[probe->ops[i].op] = (probe->ops[i].flags & IO_URING_OP_SUPPORTED) != 0;
	io_uring_free_probe(probe);
	return 0;
}

static int held_fd = -1;

void cow_uring_hold(int fd)
{
	held_fd = fd;
}

/* The kernel lets go of registered files when nothing uses the ring any more. */
static int hold_file(struct uring_loop *u)
{
	return held_fd < 0 ? 0 : register_ring(u, IORING_REGISTER_FILES, &held_fd, 1);
}

/* Empty places, for buffers that the kernel's driver puts there. */
static int make_places(struct uring_loop *u, unsigned nr)
{
	struct io_uring_rsrc_register places = { .nr = nr, .flags = IORING_RSRC_REGISTER_SPARSE };
	return nr ? register_ring(u, IORING_REGISTER_BUFFERS2, &places, sizeof(places)) : 0;
}

/*
 * System call filters do not see what a ring carries out, so the ring itself takes only what is
 * started here and by the ublk server, with no flags and no registration. Before it is enabled.
 * Kernels before 5.10 have no such thing, and nothing older than 6.0 has ublk.
 */
static int restrict_ring(struct uring_loop *u)
{
	static const uint8_t ops[] = {
		IORING_OP_NOP,	   IORING_OP_READ,	IORING_OP_WRITE,      IORING_OP_READV,
		IORING_OP_WRITEV,  IORING_OP_FSYNC,	OP_FTRUNCATE,	      IORING_OP_FALLOCATE,
		IORING_OP_TIMEOUT, IORING_OP_URING_CMD, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED,
	};
	struct io_uring_restriction list[sizeof(ops)] = { 0 };
	unsigned nr = 0;
	for (size_t i = 0; i < sizeof(ops); i++)
		if (u->has_op[ops[i]])
			list[nr++] = (struct io_uring_restriction){
				.opcode = IORING_RESTRICTION_SQE_OP,
				.sqe_op = ops[i],
			};
	return register_ring(u, IORING_REGISTER_RESTRICTIONS, list, nr);
}

static void uring_free(struct cow_loop *loop)
{
	struct uring_loop *u = uring_of(loop);
	io_uring_queue_exit(&u->ring);
	close(u->wake_fd);
	free(u);
}

static const struct cow_loop_ops uring_ops = {
	.start = uring_start,
	.drain = uring_drain,
	.wake = uring_wake,
	.now = uring_now,
	.free = uring_free,
};

static unsigned entries_for(unsigned depth)
{
	unsigned entries = MIN_ENTRIES;
	while (entries < depth && entries < MAX_ENTRIES)
		entries *= 2;
	return entries;
}

int cow_loop_uring_new(unsigned depth, struct cow_loop **out)
{
	return cow_loop_uring_new_guests(depth, 0, out);
}

int cow_loop_uring_new_guests(unsigned depth, unsigned nr_guests, struct cow_loop **out)
{
	struct uring_loop *u = calloc(1, sizeof(*u));
	if (!u)
		return -ENOMEM;
	u->wake_completion.fn = woken;
	/*
	 * Blocking on purpose: io_uring fails a read of a non-blocking file with EAGAIN instead of
	 * waiting.
	 */
	u->wake_fd = eventfd(0, EFD_CLOEXEC);
	int ret = u->wake_fd < 0 ? -errno : 0;
	if (ret)
		goto free_loop;
	ret = setup_ring(u, entries_for(depth));
	if (ret)
		goto close_wake;
	ret = probe_ops(u);
	if (!ret)
		ret = hold_file(u);
	if (!ret)
		ret = make_places(u, nr_guests);
	if (!ret)
		ret = restrict_ring(u);
	if (ret)
		goto exit_ring;
	cow_loop_init(&u->base, &uring_ops);
	*out = &u->base;
	return 0;

exit_ring:
	io_uring_queue_exit(&u->ring);
close_wake:
	close(u->wake_fd);
free_loop:
	free(u);
	return ret;
}
