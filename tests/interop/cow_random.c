/* SPDX-License-Identifier: MIT */
/*
 * cow_random: seeded random requests on the engine from several queues on several threads, any
 * overlap, checked against a model (model.h); then the image is closed, opened again and read
 * whole. The shadow file holds the initial content and gets the final one, for `qemu-img compare`.
 *
 * --written FILE: a line "OFFSET LENGTH" for each request that changes the disk.
 * With --kill a child process does the work and is killed with SIGKILL in the middle; what was
 * flushed must have survived.
 *
 * Exit: 0 all right, 1 the disk lied, 2 usage or environment, 3 stuck.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/host/system.h"
#include "engine/life/image.h"
#include "engine/loop/loop_plain.h"
#include "engine/loop/loop_uring.h"
#include "engine/request/inspect.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "tests/interop/live.h"
#include "tests/interop/model.h"
#include "tests/interop/random_options.h"
#include "tests/interop/workload.h"

#define SWEEP_BYTES (1u << 20)

static struct random_options opt;

/* ---- state shared by the workers ---- */

struct slot;

struct worker {
	pthread_t thread;
	unsigned idx;
	struct cow_loop *loop;
	struct cow_queue *queue;
	struct rng rng;
	struct slot *slots;
	struct slot *free_slots;
	unsigned nr_inflight;
	uint64_t nr_left;
	struct cow_msg stop_msg;
	bool stop;
};

struct slot {
	struct worker *worker;
	struct slot *next;
	unsigned idx;
	struct request req;
	uint64_t begin;
	void *buf;
};

static struct {
	struct cow_image *image;
	struct model *model; /* NULL with --no-verify */
	struct workload load;
	bool discard_is_definite;
	struct worker *workers;
	pthread_barrier_t opened; /* the workers and the main thread: all queues are there */
	pthread_barrier_t closed; /* the workers: all queues are gone */
	atomic_uint nr_running;
	atomic_bool failed;
	/* shared with the parent: versions never repeat, the kill point */
	_Atomic uint64_t *nr_issued;
	uint64_t kill_at;
} run;

static void fail(const char *what, int ret)
{
	fprintf(stderr, "cow_random: %s: %s: seed %" PRIu64 "\n", what,
		ret ? strerror(-ret) : "wrong data", opt.seed);
	atomic_store(&run.failed, true);
}

static struct cow_loop *new_loop(unsigned depth)
{
	struct cow_loop *loop;
	int ret = opt.sync_loop ? cow_loop_plain_new(&loop) : cow_loop_uring_new(depth, &loop);
	if (ret)
		random_die(opt.sync_loop ? "sync loop" : "io_uring loop", strerror(-ret));
	return loop;
}

/* ---- one request ---- */

static unsigned reader_of(const struct slot *slot)
{
	return slot->worker->idx * opt.depth + slot->idx;
}

static uint64_t version_of(const struct slot *slot, uint64_t nr)
{
	bool zero = slot->req.kind != COW_OP_WRITE || slot->req.zeros;
	return zero ? MODEL_ZERO
		    : MODEL_FIRST_VERSION + (nr + (opt.seed % 1021 << 25)) % (1ull << 35);
}

/*
 * A discard must zero the whole clusters inside it, [head, tail), where the format can say so; it
 * may zero its ragged ends or not.
 */
static void discard_split(const struct request *req, uint64_t *head, uint64_t *tail)
{
	uint64_t mask = run.load.cluster_bytes - 1, end = req->offset + req->length;
	*head = (req->offset + mask) & ~mask;
	*tail = end & ~mask;
	if (*head >= *tail || !run.discard_is_definite) {
		*head = end;
		*tail = end;
	}
}

static void model_begin(struct slot *slot, uint64_t version)
{
	const struct request *req = &slot->req;
	if (req->kind == COW_OP_READ) {
		model_read_begin(run.model, reader_of(slot));
	} else if (req->kind == COW_OP_FLUSH) {
		slot->begin = model_flush_begin(run.model);
	} else if (req->kind != COW_OP_DISCARD) {
		slot->begin = model_write_begin(run.model, req->offset, req->length, version);
	} else {
		uint64_t head, tail;
		discard_split(req, &head, &tail);
		slot->begin = model_discard_begin(run.model, req->offset, head, tail,
						  req->offset + req->length);
	}
}

static void model_end(struct slot *slot)
{
	const struct request *req = &slot->req;
	if (req->kind == COW_OP_READ) {
		if (model_read_end(run.model, reader_of(slot), req->offset, req->length, slot->buf))
			fail("READ", 0);
	} else if (req->kind == COW_OP_FLUSH) {
		model_flush_end(run.model, slot->begin);
	} else {
		model_write_end(run.model, req->offset, req->length, slot->begin,
				req->flags & COW_OP_FUA);
	}
}

static void slot_done(void *ctx, int result)
{
	static const char *const names[] = { "READ", "WRITE", "FLUSH", "DISCARD", "WRITE_ZEROES" };
	struct slot *slot = ctx;
	struct worker *worker = slot->worker;
	if (result)
		fail(names[slot->req.kind], result);
	else if (run.model)
		model_end(slot);
	slot->next = worker->free_slots;
	worker->free_slots = slot;
	worker->nr_inflight--;
}

static void maybe_random_die(uint64_t nr)
{
	if (!opt.kill || nr != run.kill_at)
		return;
	model_lock_forever(run.model);
	kill(getpid(), SIGKILL);
	pause();
}

static void issue(struct worker *worker)
{
	struct slot *slot = worker->free_slots;
	worker->free_slots = slot->next;
	worker->nr_left--;
	worker->nr_inflight++;
	struct request *req = &slot->req;
	workload_next(&run.load, &worker->rng, req);
	uint64_t nr = atomic_fetch_add(run.nr_issued, 1);
	maybe_random_die(nr);
	uint64_t version = version_of(slot, nr);
	if (run.model)
		model_begin(slot, version);
	if (req->kind == COW_OP_WRITE)
		model_fill(version, req->offset, req->length, slot->buf);
	if (opt.written && req->kind != COW_OP_READ && req->kind != COW_OP_FLUSH)
		fprintf(opt.written, "%" PRIu64 " %" PRIu64 "\n", req->offset, req->length);
	bool has_buf = req->kind == COW_OP_READ || req->kind == COW_OP_WRITE;
	cow_queue_submit(worker->queue, slot->idx, req->kind, req->flags, req->offset, req->length,
			 has_buf ? slot->buf : NULL, slot_done, slot);
}

/* ---- a worker: one thread, one loop, one queue ---- */

static void stop_msg_run(struct cow_msg *msg)
{
	struct worker *worker = (struct worker *)((char *)msg - offsetof(struct worker, stop_msg));
	worker->stop = true;
}

/* Others may still need this loop until the last request anywhere is done. */
static void finished(void)
{
	if (atomic_fetch_sub(&run.nr_running, 1) != 1)
		return;
	for (unsigned i = 0; i < opt.queues; i++) {
		run.workers[i].stop_msg.fn = stop_msg_run;
		cow_loop_post(run.workers[i].loop, &run.workers[i].stop_msg);
	}
}

static void worker_open(struct worker *worker)
{
	worker->loop = new_loop(opt.depth);
	cow_loop_enter(worker->loop);
	int ret = cow_queue_new(run.image, worker->loop, opt.depth, &worker->queue);
	if (ret)
		random_die("cow_queue_new", strerror(-ret));
	worker->slots = calloc(opt.depth, sizeof(*worker->slots));
	for (unsigned i = 0; i < opt.depth; i++) {
		struct slot *slot = &worker->slots[i];
		slot->worker = worker;
		slot->idx = i;
		slot->buf = cow_buf_alloc(COW_MAX_OP_BYTES);
		slot->next = worker->free_slots;
		worker->free_slots = slot;
	}
}

static void worker_close(struct worker *worker)
{
	cow_queue_free(worker->queue);
	/* no loop goes while another's queue may still post to it */
	pthread_barrier_wait(&run.closed);
	cow_loop_enter(NULL);
	for (unsigned i = 0; i < opt.depth; i++)
		free(worker->slots[i].buf);
	free(worker->slots);
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	worker_open(worker);
	pthread_barrier_wait(&run.opened);
	bool counted = false;
	while (!worker->stop) {
		while (worker->nr_left && worker->free_slots && !atomic_load(&run.failed))
			issue(worker);
		if (atomic_load(&run.failed))
			worker->nr_left = 0;
		if (!counted && !worker->nr_left && !worker->nr_inflight) {
			counted = true;
			finished();
		}
		int ret = !worker->nr_left || !worker->free_slots ? cow_loop_run(worker->loop)
								  : cow_loop_poll(worker->loop);
		if (ret)
			random_die("cow_loop_run", strerror(-ret));
	}
	worker_close(worker);
	return NULL;
}

/* ---- a round: open, work, close ---- */

static void print_line(void *ctx, const char *text)
{
	fprintf(stderr, "  %s\n", text);
}

static _Noreturn void stuck(void)
{
	fprintf(stderr, "cow_random: stuck for %u s: seed %" PRIu64 "\n", opt.timeout_seconds,
		opt.seed);
	for (unsigned i = 0; i < opt.queues; i++) {
		fprintf(stderr, " queue %u: %u in flight, %" PRIu64 " to go\n", i,
			run.workers[i].nr_inflight, run.workers[i].nr_left);
		cow_inspect_print(run.workers[i].queue, print_line, NULL);
	}
	_exit(3);
}

static void join_workers(void)
{
	struct timespec deadline;
	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += opt.timeout_seconds;
	for (unsigned i = 0; i < opt.queues; i++)
		if (pthread_timedjoin_np(run.workers[i].thread, NULL, &deadline))
			stuck();
}

static void work(struct rng *rng)
{
	run.workers = calloc(opt.queues, sizeof(*run.workers));
	atomic_store(&run.nr_running, opt.queues);
	pthread_barrier_init(&run.opened, NULL, opt.queues + 1);
	pthread_barrier_init(&run.closed, NULL, opt.queues);
	for (unsigned i = 0; i < opt.queues; i++) {
		struct worker *worker = &run.workers[i];
		worker->idx = i;
		worker->rng.state = rng_next(rng);
		worker->nr_left = opt.ops / opt.queues / opt.rounds;
		pthread_create(&worker->thread, NULL, worker_main, worker);
	}
	pthread_barrier_wait(&run.opened);
	if (opt.live_snapshots)
		live_start(run.image, opt.live_snapshots);
	if (opt.live_bitmaps)
		live_start_bitmaps(run.image);
	join_workers();
	if ((opt.live_snapshots || opt.live_bitmaps) && live_stop() < 0)
		fail("live changes", -EIO);
	/* only now: who changes the image live may have been waking somebody on it */
	for (unsigned i = 0; i < opt.queues; i++)
		cow_loop_free(run.workers[i].loop);
	pthread_barrier_destroy(&run.opened);
	pthread_barrier_destroy(&run.closed);
	free(run.workers);
}

static void open_image(struct cow_loop *loop, bool writable)
{
	struct cow_error err = { 0 };
	struct cow_open_options options = opt.open;
	options.writable = writable;
	int ret = cow_image_open(cow_host_system(), loop, opt.image, &options, &run.image, &err);
	if (ret)
		random_die("cannot open", err.text[0] ? err.text : strerror(-ret));
}

static void close_image(struct cow_loop *loop)
{
	struct cow_error err = { 0 };
	const char *why = cow_image_failure(run.image);
	if (why) {
		fprintf(stderr, "cow_random: image failed: %s\n", why);
		fail("image", -EIO);
	}
	int ret = cow_image_close(run.image, loop, &err);
	if (ret) {
		fprintf(stderr, "cow_random: close: %s\n", err.text);
		fail("close", ret);
	}
}

static void round_run(struct rng *rng)
{
	struct cow_loop *loop = new_loop(opt.depth);
	open_image(loop, true);
	workload_init(&run.load, cow_image_geometry(run.image), rng);
	if (opt.mix && !workload_parse_mix(&run.load, opt.mix))
		random_die("--mix", "name=weight,... with read write flush discard zero");
	if (opt.max_bytes)
		run.load.max_bytes =
			opt.max_bytes < run.load.max_bytes ? opt.max_bytes : run.load.max_bytes;
	if (opt.zero_percent)
		run.load.zero_percent = opt.zero_percent;
	work(rng);
	close_image(loop);
	cow_loop_free(loop);
}

/* The child works and is killed by its own hand at a random request; it may also get through. */
static void round_killed(struct rng *rng)
{
	uint64_t ops = opt.ops / opt.rounds;
	run.kill_at = atomic_load(run.nr_issued) + ops / 8 + rng_below(rng, ops);
	pid_t child = fork();
	if (child == 0) {
		round_run(rng);
		_exit(atomic_load(&run.failed) ? 1 : 0);
	}
	int status;
	waitpid(child, &status, 0);
	rng_next(rng);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
		usleep(200 * 1000); /* io_uring lets go of the file a little later */
		model_unlock_after_kill(run.model);
		model_crashed(run.model, true);
	} else if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
	}
}

/* ---- the final sweep ---- */

static void sweep_chunk(struct cow_queue *queue, int shadow, const uint8_t *initial, void *buf,
			uint64_t offset, uint64_t length)
{
	if (run.model)
		model_read_begin(run.model, 0);
	int ret = cow_queue_do(queue, COW_OP_READ, 0, offset, length, buf);
	if (ret)
		fail("final READ", ret);
	else if (run.model && model_read_end(run.model, 0, offset, length, buf))
		fail("after reopening", 0);
	if (shadow >= 0 && memcmp(buf, initial + offset, length) &&
	    pwrite(shadow, buf, length, (off_t)offset) != (ssize_t)length)
		random_die(opt.shadow, strerror(errno));
}

/*
 * Reads everything that may have changed through a read-only image, and brings the shadow file up
 * to date if given.
 */
static void sweep(int shadow, const uint8_t *initial, bool writable)
{
	struct cow_loop *loop = new_loop(4);
	open_image(loop, writable);
	struct cow_queue *queue;
	int ret = cow_queue_new(run.image, loop, 2, &queue);
	if (ret)
		random_die("cow_queue_new", strerror(-ret));
	uint64_t size = cow_image_geometry(run.image)->size_bytes;
	void *buf = cow_buf_alloc(SWEEP_BYTES);
	for (uint64_t offset = 0; offset < size; offset += SWEEP_BYTES) {
		uint64_t length = size - offset < SWEEP_BYTES ? size - offset : SWEEP_BYTES;
		if (opt.full_sweep || !run.model || model_touched(run.model, offset, length))
			sweep_chunk(queue, shadow, initial, buf, offset, length);
	}
	free(buf);
	cow_queue_free(queue);
	close_image(loop);
	cow_loop_free(loop);
}

/* ---- start ---- */

static struct cow_image_geometry look_at_image(void)
{
	struct cow_loop *loop = new_loop(4);
	open_image(loop, false);
	struct cow_image_geometry geometry = *cow_image_geometry(run.image);
	close_image(loop);
	cow_loop_free(loop);
	return geometry;
}

static int open_shadow(uint64_t size, const uint8_t **initial)
{
	int fd = opt.shadow ? open(opt.shadow, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
	struct stat st = { 0 };
	if (opt.shadow && (fd < 0 || fstat(fd, &st)))
		random_die(opt.shadow, strerror(errno));
	if (fd >= 0 && st.st_size && (uint64_t)st.st_size != size)
		random_die(opt.shadow, "its size is not the disk's");
	if (fd >= 0 && ftruncate(fd, (off_t)size))
		random_die(opt.shadow, strerror(errno));
	int flags = MAP_PRIVATE | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0);
	*initial = mmap(NULL, size, PROT_READ, flags, fd, 0);
	if (*initial == MAP_FAILED)
		random_die("shadow", strerror(errno));
	return fd;
}

int main(int argc, char **argv)
{
	random_options_parse(&opt, argc, argv);
	struct rng rng = { opt.seed };
	struct cow_image_geometry geometry = look_at_image();
	const uint8_t *initial;
	int shadow = open_shadow(geometry.size_bytes, &initial);
	run.nr_issued = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!opt.no_verify)
		run.model = model_new(geometry.size_bytes, initial, opt.kill);
	if (run.model && opt.open.nr_secrets)
		model_set_encrypted(run.model);
	/* Version 2 cannot say "zeros" over a backing file, so a discard may do nothing there. */
	run.discard_is_definite = geometry.version >= 3;
	opt.full_sweep = geometry.size_bytes <= 1ull << 30;
	for (unsigned i = 0; i < opt.rounds && !atomic_load(&run.failed); i++) {
		if (!opt.kill) {
			round_run(&rng);
			continue;
		}
		round_killed(&rng);
		sweep(-1, initial, true);
		model_crashed(run.model, false);
	}
	sweep(shadow, initial, false);
	if (atomic_load(&run.failed))
		return 1;
	printf("cow_random: %" PRIu64 " requests, seed %" PRIu64 ": right\n",
	       atomic_load(run.nr_issued), opt.seed);
	return 0;
}
