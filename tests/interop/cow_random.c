/* SPDX-License-Identifier: MIT */
/*
 * cow_random: seeded random requests on the engine from several queues on several threads, any overlap, checked against
 * a model (model.h); then the image is closed, opened again and read whole. The shadow file holds the initial content and gets
 * the final one, for `qemu-img compare`.
 *
 * --written FILE: a line "OFFSET LENGTH" for each request that changes the disk.
 * With --kill a child process does the work and is killed with SIGKILL in the middle; what was flushed must have survived.
 *
 * Exit: 0 all right, 1 the disk lied, 2 usage or environment, 3 stuck.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
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

#include "engine/life/image.h"
#include "tests/interop/live.h"
#include "tests/interop/model.h"
#include "tests/interop/workload.h"

#define SWEEP_BYTES (1u << 20)

static struct {
	const char *image, *shadow, *mix;
	unsigned live_snapshots; /* how many to keep; 0: none are taken */
	uint64_t seed, ops, max_bytes;
	unsigned queues, depth, rounds, timeout_seconds, zero_percent;
	bool sync_loop, no_verify, kill, full_sweep, live_bitmaps;
	FILE *written;
	struct cow_open_options open;
} opt = { .ops = 2000, .queues = 2, .depth = 16, .rounds = 2, .timeout_seconds = 120 };

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
	_Atomic uint64_t *nr_issued; /* shared with the parent: versions never repeat, the kill point */
	uint64_t kill_at;
} run;

static void fail(const char *what, int ret)
{
	fprintf(stderr, "cow_random: %s: %s: seed %" PRIu64 "\n", what, ret ? strerror(-ret) : "wrong data", opt.seed);
	atomic_store(&run.failed, true);
}

static _Noreturn void die(const char *what, const char *why)
{
	fprintf(stderr, "cow_random: %s: %s\n", what, why);
	exit(2);
}

static struct cow_loop *new_loop(unsigned depth)
{
	struct cow_loop *loop;
	int ret = opt.sync_loop ? cow_loop_sync_new(&loop) : cow_loop_uring_new(depth, &loop);
	if (ret)
		die(opt.sync_loop ? "sync loop" : "io_uring loop", strerror(-ret));
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
	return zero ? MODEL_ZERO : MODEL_FIRST_VERSION + (nr + (opt.seed % 1021 << 25)) % (1ull << 35);
}

/*
 * A discard must zero the whole clusters inside it, [head, tail), where the format can say so; it may zero its ragged ends or
 * not.
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
		slot->begin = model_discard_begin(run.model, req->offset, head, tail, req->offset + req->length);
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
		model_write_end(run.model, req->offset, req->length, slot->begin, req->flags & COW_OP_FUA);
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

static void maybe_die(uint64_t nr)
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
	maybe_die(nr);
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
		die("cow_queue_new", strerror(-ret));
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
	pthread_barrier_wait(&run.closed); /* no loop goes while another's queue may still post to it */
	cow_loop_enter(NULL);
	cow_loop_free(worker->loop);
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
		int ret = cow_loop_run(worker->loop, !worker->nr_left || !worker->free_slots);
		if (ret)
			die("cow_loop_run", strerror(-ret));
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
		fprintf(stderr, " queue %u: %u in flight, %" PRIu64 " to go\n", i, run.workers[i].nr_inflight,
			run.workers[i].nr_left);
		cow_queue_print(run.workers[i].queue, print_line, NULL);
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
		die("cannot open", err.text[0] ? err.text : strerror(-ret));
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
		die("--mix", "name=weight,... with read write flush discard zero");
	if (opt.max_bytes)
		run.load.max_bytes = opt.max_bytes < run.load.max_bytes ? opt.max_bytes : run.load.max_bytes;
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

static void sweep_chunk(struct cow_queue *queue, int shadow, const uint8_t *initial, void *buf, uint64_t offset,
			uint64_t length)
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
		die(opt.shadow, strerror(errno));
}

/* Reads everything that may have changed through a read-only image, and brings the shadow file up to date if given. */
static void sweep(int shadow, const uint8_t *initial, bool writable)
{
	struct cow_loop *loop = new_loop(4);
	open_image(loop, writable);
	struct cow_queue *queue;
	int ret = cow_queue_new(run.image, loop, 2, &queue);
	if (ret)
		die("cow_queue_new", strerror(-ret));
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
		die(opt.shadow, strerror(errno));
	if (fd >= 0 && st.st_size && (uint64_t)st.st_size != size)
		die(opt.shadow, "its size is not the disk's");
	if (fd >= 0 && ftruncate(fd, (off_t)size))
		die(opt.shadow, strerror(errno));
	int flags = MAP_PRIVATE | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0);
	*initial = mmap(NULL, size, PROT_READ, flags, fd, 0);
	if (*initial == MAP_FAILED)
		die("shadow", strerror(errno));
	return fd;
}

static const struct option long_options[] = {
	{ "image", required_argument, NULL, 'i' },      { "shadow", required_argument, NULL, 's' },
	{ "seed", required_argument, NULL, 'S' },       { "ops", required_argument, NULL, 'n' },
	{ "queues", required_argument, NULL, 'q' },     { "depth", required_argument, NULL, 'd' },
	{ "rounds", required_argument, NULL, 'r' },     { "mix", required_argument, NULL, 'm' },
	{ "max-bytes", required_argument, NULL, 'b' },  { "cache-bytes", required_argument, NULL, 'c' },
	{ "timeout", required_argument, NULL, 't' },    { "detect-zeroes", required_argument, NULL, 'z' },
	{ "zero-percent", required_argument, NULL, 'Z' }, { "backing-root", required_argument, NULL, 'R' },
	{ "sync-loop", no_argument, NULL, 'y' },        { "no-verify", no_argument, NULL, 'V' },
	{ "kill", no_argument, NULL, 'k' },             { "no-discard", no_argument, NULL, 'D' },
	{ "buffered", no_argument, NULL, 'B' },         { "key-file", required_argument, NULL, 'K' },
	{ "compress", no_argument, NULL, 'C' },
	{ "live-snapshots", required_argument, NULL, 'L' },
	{ "live-bitmaps", no_argument, NULL, 'l' },     { "written", required_argument, NULL, 'w' },
	{ NULL, 0, NULL, 0 },
};

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);
	if (end == text || *end)
		die(text, "not a number");
	return value;
}

static enum cow_detect_zeroes detect_zeroes(const char *text)
{
	if (!strcmp(text, "unmap"))
		return COW_DETECT_ZEROES_UNMAP;
	return strcmp(text, "on") ? COW_DETECT_ZEROES_OFF : COW_DETECT_ZEROES_ON;
}

/* The file's whole content is the passphrase, as QEMU's secret objects take it. */
static void read_key(const char *path)
{
	static const struct cow_secret *secret;
	struct cow_secret *s = cow_secret_new();
	FILE *f = fopen(path, "r");
	if (!s || !f)
		die(path, "cannot read the key");
	s->bytes = fread(s->data, 1, sizeof(s->data), f);
	fclose(f);
	secret = s;
	opt.open.secrets = &secret;
	opt.open.nr_secrets = 1;
	opt.open.write_legacy_aes = true;
}

/* A line at a time: the process may be killed. */
static void open_written(const char *path)
{
	opt.written = fopen(path, "w");
	if (!opt.written)
		die(path, strerror(errno));
	setlinebuf(opt.written);
}

static void parse_one(int c, const char *arg)
{
	static const char *root;
	switch (c) {
	case 'i': opt.image = arg; break;
	case 's': opt.shadow = arg; break;
	case 'S': opt.seed = number(arg); break;
	case 'n': opt.ops = number(arg); break;
	case 'q': opt.queues = (unsigned)number(arg); break;
	case 'd': opt.depth = (unsigned)number(arg); break;
	case 'r': opt.rounds = (unsigned)number(arg); break;
	case 'm': opt.mix = arg; break;
	case 'b': opt.max_bytes = number(arg); break;
	case 'c': opt.open.cache_bytes = number(arg); break;
	case 't': opt.timeout_seconds = (unsigned)number(arg); break;
	case 'z': opt.open.detect_zeroes = detect_zeroes(arg); break;
	case 'Z': opt.zero_percent = (unsigned)number(arg); break;
	case 'R': root = arg; opt.open.backing_roots = &root; opt.open.nr_backing_roots = 1; break;
	case 'y': opt.sync_loop = true; break;
	case 'V': opt.no_verify = true; break;
	case 'k': opt.kill = true; break;
	case 'D': opt.open.no_discard = true; break;
	case 'B': opt.open.buffered = true; break;
	case 'K': read_key(arg); break;
	case 'C': opt.open.compress = true; break;
	case 'L': opt.live_snapshots = (unsigned)number(arg); break;
	case 'l': opt.live_bitmaps = true; break;
	case 'w': open_written(arg); break;
	default: exit(2);
	}
}

static void parse_options(int argc, char **argv)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	opt.seed = (uint64_t)now.tv_nsec;
	int c;
	while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		parse_one(c, optarg);
	if (!opt.image || optind != argc)
		die("usage", "cow_random --image IMAGE [--shadow RAW] [--seed N] [--ops N] [--queues N] [--depth N] ...");
	if (!opt.queues || !opt.depth || !opt.rounds || opt.queues * opt.depth > MODEL_MAX_READERS)
		die("usage", "queues, depth and rounds must be positive");
	if (opt.kill && opt.no_verify)
		die("usage", "--kill needs the model");
}

int main(int argc, char **argv)
{
	parse_options(argc, argv);
	struct rng rng = { opt.seed };
	struct cow_image_geometry geometry = look_at_image();
	const uint8_t *initial;
	int shadow = open_shadow(geometry.size_bytes, &initial);
	run.nr_issued = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!opt.no_verify)
		run.model = model_new(geometry.size_bytes, initial, opt.kill);
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
	printf("cow_random: %" PRIu64 " requests, seed %" PRIu64 ": right\n", atomic_load(run.nr_issued), opt.seed);
	return 0;
}
