/* SPDX-License-Identifier: MIT */
/*
 * disk_random: seeded random requests on a block device from several threads, any overlap, checked
 * against the model of tests/interop (model.h). The shadow file holds what the disk holds at the
 * start and gets what it holds at the end.
 *
 * Exit: 0 all right, 1 the disk lied, 2 usage or environment.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "engine/request/kind.h"
#include "tests/interop/model.h"
#include "tests/interop/workload.h"

static struct {
	const char *device, *shadow;
	uint64_t seed, ops;
	uint32_t cluster_bytes;
	unsigned threads;
	bool vague_discard; /* a discard need not make zeros (version 2) */
	bool encrypted;
} opt = { .seed = 1, .ops = 400, .cluster_bytes = 65536, .threads = 8 };

struct worker {
	pthread_t thread;
	unsigned idx;
	struct rng rng;
	void *buf;
};

static struct {
	int fd;
	struct model *model;
	struct workload load;
	atomic_uint_least64_t issued;
	atomic_bool failed;
} run;

static _Noreturn void die(const char *what, const char *why)
{
	fprintf(stderr, "disk_random: %s: %s\n", what, why);
	exit(2);
}

static void fail(const char *what, const struct request *req, const char *why)
{
	fprintf(stderr,
		"disk_random: %s at %" PRIu64 " of %" PRIu64 " bytes: %s (seed %" PRIu64 ")\n",
		what, req->offset, req->length, why, opt.seed);
	atomic_store(&run.failed, true);
}

/* ---- one request ---- */

static bool all_of(ssize_t n, const struct request *req)
{
	if (n >= 0 && n != (ssize_t)req->length)
		errno = EIO;
	return n == (ssize_t)req->length;
}

static bool do_write(const struct request *req, void *buf)
{
	struct iovec iov = { .iov_base = buf, .iov_len = req->length };
	return all_of(pwritev2(run.fd, &iov, 1, (off_t)req->offset,
			       (req->flags & COW_OP_FUA) ? RWF_DSYNC : 0),
		      req);
}

static bool do_discard(const struct request *req)
{
	uint64_t range[2] = { req->offset, req->length };
	return !ioctl(run.fd, BLKDISCARD, range);
}

static bool do_zeroes(const struct request *req)
{
	int mode = (req->flags & COW_OP_NOUNMAP) ? FALLOC_FL_ZERO_RANGE
						 : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	return !fallocate(run.fd, mode, (off_t)req->offset, (off_t)req->length);
}

static void read_one(const struct request *req, struct worker *w)
{
	model_read_begin(run.model, w->idx);
	if (!all_of(pread(run.fd, w->buf, req->length, (off_t)req->offset), req))
		fail("READ", req, strerror(errno));
	else if (model_read_end(run.model, w->idx, req->offset, req->length, w->buf))
		fail("READ", req, "wrong data");
}

static void flush_one(const struct request *req)
{
	uint64_t begin = model_flush_begin(run.model);
	if (fdatasync(run.fd))
		fail("FLUSH", req, strerror(errno));
	model_flush_end(run.model, begin);
}

/* Whole clusters become zeros for certain, its ragged ends may. */
static void discard_one(const struct request *req)
{
	uint64_t mask = opt.cluster_bytes - 1, end = req->offset + req->length;
	uint64_t head = (req->offset + mask) & ~mask, tail = end & ~mask;
	if (head >= tail || opt.vague_discard)
		head = tail = end;
	uint64_t begin = model_discard_begin(run.model, req->offset, head, tail, end);
	if (!do_discard(req))
		fail("DISCARD", req, strerror(errno));
	model_write_end(run.model, req->offset, req->length, begin, false);
}

static void write_one(const struct request *req, struct worker *w, uint64_t nr)
{
	bool zero = req->kind == COW_OP_WRITE_ZEROES || req->zeros;
	uint64_t version = zero ? MODEL_ZERO : MODEL_FIRST_VERSION + nr + (opt.seed % 1021 << 25);
	uint64_t begin = model_write_begin(run.model, req->offset, req->length, version);
	if (req->kind == COW_OP_WRITE)
		model_fill(version, req->offset, req->length, w->buf);
	if (!(req->kind == COW_OP_WRITE ? do_write(req, w->buf) : do_zeroes(req)))
		fail(req->kind == COW_OP_WRITE ? "WRITE" : "WRITE_ZEROES", req, strerror(errno));
	model_write_end(run.model, req->offset, req->length, begin, false);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	uint64_t nr;
	while (!atomic_load(&run.failed) && (nr = atomic_fetch_add(&run.issued, 1)) < opt.ops) {
		struct request req;
		workload_next(&run.load, &w->rng, &req);
		switch (req.kind) {
		case COW_OP_READ:
			read_one(&req, w);
			break;
		case COW_OP_FLUSH:
			flush_one(&req);
			break;
		case COW_OP_DISCARD:
			discard_one(&req);
			break;
		default:
			write_one(&req, w, nr);
		}
	}
	return NULL;
}

static void work(struct rng *rng)
{
	struct worker *workers = calloc(opt.threads, sizeof(*workers));
	for (unsigned i = 0; i < opt.threads; i++) {
		struct worker *w = &workers[i];
		w->idx = i;
		w->rng.state = rng_next(rng);
		if (posix_memalign(&w->buf, 4096, COW_MAX_OP_BYTES) ||
		    pthread_create(&w->thread, NULL, worker_main, w))
			die("threads", "cannot start them");
	}
	for (unsigned i = 0; i < opt.threads; i++) {
		pthread_join(workers[i].thread, NULL);
		free(workers[i].buf);
	}
	free(workers);
}

/* ---- start and end ---- */

/* Everything is read once more, and goes to the shadow. */
static void sweep(int shadow, uint64_t size)
{
	struct worker w = { 0 };
	if (posix_memalign(&w.buf, 4096, COW_MAX_OP_BYTES))
		die("memory", "none");
	for (uint64_t off = 0; off < size && !atomic_load(&run.failed); off += COW_MAX_OP_BYTES) {
		struct request req = { .kind = COW_OP_READ, .offset = off };
		req.length = size - off < COW_MAX_OP_BYTES ? size - off : COW_MAX_OP_BYTES;
		read_one(&req, &w);
		if (pwrite(shadow, w.buf, req.length, (off_t)off) != (ssize_t)req.length)
			die(opt.shadow, strerror(errno));
	}
	free(w.buf);
}

static uint64_t device_size(void)
{
	uint64_t size = 0;
	run.fd = open(opt.device, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (run.fd < 0 || ioctl(run.fd, BLKGETSIZE64, &size))
		die(opt.device, strerror(errno));
	return size;
}

/* A private copy: the shadow file changes at the end. */
static const uint8_t *load_shadow(int fd, uint64_t size)
{
	struct stat st;
	uint8_t *initial = malloc(size);
	if (fd < 0 || fstat(fd, &st) || !initial)
		die(opt.shadow, strerror(errno));
	if ((uint64_t)st.st_size != size)
		die(opt.shadow, "its size is not the device's");
	for (uint64_t off = 0; off < size;) {
		ssize_t n = pread(fd, initial + off, size - off, (off_t)off);
		if (n <= 0)
			die(opt.shadow, "cannot read");
		off += (uint64_t)n;
	}
	return initial;
}

static const struct option long_options[] = {
	{ "device", required_argument, NULL, 'd' },
	{ "shadow", required_argument, NULL, 's' },
	{ "seed", required_argument, NULL, 'S' },
	{ "ops", required_argument, NULL, 'n' },
	{ "cluster", required_argument, NULL, 'c' },
	{ "threads", required_argument, NULL, 't' },
	{ "vague-discard", no_argument, NULL, 'v' },
	{ "encrypted", no_argument, NULL, 'e' },
	{ NULL, 0, NULL, 0 },
};

static void parse_options(int argc, char **argv)
{
	int c;
	while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (c) {
		case 'd':
			opt.device = optarg;
			break;
		case 's':
			opt.shadow = optarg;
			break;
		case 'S':
			opt.seed = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			opt.ops = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			opt.cluster_bytes = (uint32_t)strtoul(optarg, NULL, 0);
			break;
		case 't':
			opt.threads = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'v':
			opt.vague_discard = true;
			break;
		case 'e':
			opt.encrypted = true;
			break;
		default:
			exit(2);
		}
	}
	if (!opt.device || !opt.shadow || !opt.threads || opt.threads > MODEL_MAX_READERS ||
	    optind != argc || !opt.cluster_bytes || opt.cluster_bytes & (opt.cluster_bytes - 1))
		die("usage", "disk_random --device DEV --shadow RAW [--seed N] [--ops N] "
			     "[--cluster BYTES] [--threads N] [--vague-discard] "
			     "[--encrypted]");
}

int main(int argc, char **argv)
{
	parse_options(argc, argv);
	struct rng rng = { opt.seed };
	uint64_t size = device_size();
	int shadow = open(opt.shadow, O_RDWR | O_CLOEXEC);
	const uint8_t *initial = load_shadow(shadow, size);
	struct cow_image_geometry geometry = { .size_bytes = size,
					       .cluster_bytes = opt.cluster_bytes };
	run.model = model_new(size, initial, false);
	if (opt.encrypted)
		model_set_encrypted(run.model);
	workload_init(&run.load, &geometry, &rng);
	work(&rng);
	sweep(shadow, size);
	if (atomic_load(&run.failed))
		return 1;
	printf("disk_random: %" PRIu64 " requests, seed %" PRIu64 ": right\n", opt.ops, opt.seed);
	return 0;
}
