/* SPDX-License-Identifier: MIT */
/*
 * pause DIRECTORY SIZE_GIB CLUSTER_BYTES [--attach-only]
 *
 * How long requests wait, whatever the image's size: for the first new cluster after an attach, and
 * for a snapshot of the running image. Makes an image of that size in DIRECTORY, all of it mapped
 * but for one cluster (metadata only: the host file is sparse). Opens it and writes to that cluster;
 * then has one thread write 4 KiB at random places, and meanwhile makes and deletes a snapshot, and
 * makes the disk larger and smaller.
 * Prints, as JSON, for the attach how long opening and the first writes took; for the snapshots the
 * pause as the engine has measured it, the longest that a write took, seconds in all, and memory: as
 * the engine counts what it takes for the change, and the growth of the process.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/create/create.h"
#include "engine/host/system.h"
#include "engine/life/image.h"
#include "engine/life/live.h"
#include "engine/life/live_resize.h"
#include "engine/loop/loop_uring.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"

#define WRITE_BYTES 4096u

struct writer {
	struct cow_image *image;
	uint64_t bytes; /* it writes before there */
	atomic_bool stop;
	atomic_uint_least64_t longest_ns, nr;
	int ret;
};

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state >> 20;
}

static int write_on(struct writer *w, struct cow_queue *queue, void *buf)
{
	uint64_t blocks = w->bytes / WRITE_BYTES, state = 1;
	int ret = 0;
	while (!atomic_load(&w->stop) && !ret) {
		uint64_t off = next_random(&state) % blocks * WRITE_BYTES, start = now_ns();
		ret = cow_queue_do(queue, COW_OP_WRITE, 0, off, WRITE_BYTES, buf);
		uint64_t took = now_ns() - start;
		if (took > atomic_load(&w->longest_ns))
			atomic_store(&w->longest_ns, took);
		atomic_fetch_add(&w->nr, 1);
	}
	return ret;
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	struct cow_loop *loop;
	struct cow_queue *queue;
	void *buf = cow_buf_alloc(WRITE_BYTES);
	w->ret = buf ? cow_loop_uring_new(8, &loop) : -ENOMEM;
	if (w->ret)
		return NULL;
	cow_loop_enter(loop);
	w->ret = cow_queue_new(w->image, loop, 1, &queue);
	if (!w->ret) {
		w->ret = write_on(w, queue, buf);
		cow_queue_free(queue);
	}
	cow_loop_free(loop);
	free(buf);
	return NULL;
}

/* VmHWM, in KiB; reset first. */
static uint64_t status_kib(const char *key)
{
	char line[128];
	uint64_t kib = 0;
	FILE *f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			kib = strtoull(line + strlen(key) + 1, NULL, 10);
	if (f)
		fclose(f);
	return kib;
}

static void reset_peak(void)
{
	FILE *f = fopen("/proc/self/clear_refs", "w");
	if (f) {
		fputs("5", f);
		fclose(f);
	}
}

static int measure(struct writer *w, struct cow_loop *loop, enum cow_live_what what)
{
	struct cow_live_snapshot s = { .what = what, .key = { .text = "pause" } };
	struct cow_error err = { 0 };
	reset_peak();
	uint64_t before_kib = status_kib("VmRSS:"), begun = now_ns();
	atomic_store(&w->longest_ns, 0);
	int ret = cow_image_change_snapshot(w->image, loop, &s, &err);
	if (ret) {
		fprintf(stderr, "pause: %s\n", err.text);
		return ret;
	}
	printf("\"%s\": {\"pause_ms\": %.1f, \"longest_write_ms\": %.1f, \"seconds\": %.2f, "
	       "\"change_mib\": %.1f, \"process_grew_mib\": %.1f, \"all_frozen\": %s}, ",
	       what == COW_LIVE_CREATE ? "create" : "delete", (double)s.pause_ns / 1e6,
	       (double)atomic_load(&w->longest_ns) / 1e6, (double)(now_ns() - begun) / 1e9,
	       (double)s.peak_bytes / 1048576,
	       (double)((int64_t)status_kib("VmHWM:") - (int64_t)before_kib) / 1024,
	       s.all_frozen ? "true" : "false");
	free(s.id);
	return 0;
}

static int measure_resize(struct writer *w, struct cow_loop *loop, const char *name,
			  const struct cow_resize_options *options)
{
	struct cow_error err = { 0 };
	uint64_t size_bytes, pause_ns, begun = now_ns();
	atomic_store(&w->longest_ns, 0);
	int ret = cow_image_resize(w->image, loop, options, &size_bytes, &pause_ns, &err);
	if (ret) {
		fprintf(stderr, "pause: %s\n", err.text);
		return ret;
	}
	printf("\"%s\": {\"pause_ms\": %.1f, \"longest_write_ms\": %.1f, \"seconds\": %.2f}, ",
	       name, (double)pause_ns / 1e6, (double)atomic_load(&w->longest_ns) / 1e6,
	       (double)(now_ns() - begun) / 1e9);
	return 0;
}

static int measure_all(struct cow_image *image, struct cow_loop *loop)
{
	/* By so much that the L1 table moves; by what nothing is mapped in; by what is mapped. */
	uint64_t bytes = cow_image_geometry(image)->size_bytes;
	const struct cow_resize_options grow = { .bytes = 1ull << 40, .sign = 1 },
					shrink = { .bytes = bytes, .shrink = true },
					halve = { .bytes = bytes / 2, .shrink = true };
	struct writer w = { .image = image, .bytes = bytes / 2 };
	pthread_t thread;
	int ret = -pthread_create(&thread, NULL, writer_main, &w);
	if (ret)
		return ret;
	while (atomic_load(&w.nr) < 100 && !w.ret)
		usleep(1000);
	ret = measure(&w, loop, COW_LIVE_CREATE);
	if (!ret)
		ret = measure(&w, loop, COW_LIVE_DELETE);
	if (!ret)
		ret = measure_resize(&w, loop, "grow", &grow);
	if (!ret)
		ret = measure_resize(&w, loop, "shrink", &shrink);
	if (!ret)
		ret = measure_resize(&w, loop, "shrink_mapped", &halve);
	atomic_store(&w.stop, true);
	pthread_join(thread, NULL);
	printf("\"writes\": %" PRIu64 "}\n", (uint64_t)atomic_load(&w.nr));
	return ret ? ret : w.ret;
}

/* ---- attach ---- */

static double ms_since(uint64_t start)
{
	return (double)(now_ns() - start) / 1e6;
}

static int use(const char *path, struct cow_loop *loop, struct cow_error *err,
	       int (*what)(struct cow_queue *, uint64_t, void *), uint64_t at)
{
	const struct cow_open_options options = { .writable = true };
	struct cow_image *image;
	struct cow_queue *queue;
	void *buf = cow_buf_alloc(WRITE_BYTES);
	uint64_t start = now_ns();
	int ret = buf ? cow_image_open(cow_host_system(), loop, path, &options, &image, err)
		      : -ENOMEM;
	if (!ret) {
		printf("\"open_ms\": %.2f, ", ms_since(start));
		ret = cow_queue_new(image, loop, 1, &queue);
		if (!ret) {
			ret = what(queue, at, buf);
			cow_queue_free(queue);
		}
		int closed = cow_image_close(image, loop, err);
		ret = ret ? ret : closed;
	}
	free(buf);
	return ret;
}

static int make_hole(struct cow_queue *queue, uint64_t at, void *buf)
{
	return cow_queue_do(queue, COW_OP_DISCARD, 0, at, 1 << 21, NULL);
}

static uint64_t cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Processor time as well: a busy machine says nothing about the time that passes. */
static int write_there(struct cow_queue *queue, uint64_t at, void *buf)
{
	uint64_t start = now_ns(), cpu = cpu_ns();
	int ret = cow_queue_do(queue, COW_OP_WRITE, 0, at, WRITE_BYTES, buf);
	printf("\"first_write_ms\": %.2f, \"first_write_cpu_ms\": %.2f, ", ms_since(start),
	       (double)(cpu_ns() - cpu) / 1e6);
	start = now_ns();
	if (!ret)
		ret = cow_queue_do(queue, COW_OP_WRITE, 0, at + WRITE_BYTES, WRITE_BYTES, buf);
	printf("\"second_write_ms\": %.2f", ms_since(start));
	return ret;
}

static int attach(const char *path, struct cow_loop *loop, uint64_t at, struct cow_error *err)
{
	printf("\"before\": {");
	int ret = use(path, loop, err, make_hole, at);
	printf("\"hole_bytes\": %u}, \"attach\": {", 1u << 21);
	if (!ret)
		ret = use(path, loop, err, write_there, at);
	printf("}");
	return ret;
}

static int run(const char *path, uint64_t size_bytes, uint32_t cluster_bytes, bool snapshots)
{
	const struct cow_create_options make = { .size_bytes = size_bytes,
						 .has_size = true,
						 .cluster_bytes = cluster_bytes,
						 .preallocation = COW_PREALLOC_METADATA };
	/* The caches are full before, so that they do not count as the change's. */
	const struct cow_open_options options = { .writable = true, .keep_memory = true };
	struct cow_error err = { 0 };
	struct cow_image *image = NULL;
	struct cow_loop *loop;
	int ret = cow_loop_uring_new(64, &loop);
	if (!ret)
		ret = cow_create(cow_host_system(), loop, path, &make, &err);
	if (!ret)
		ret = attach(path, loop, size_bytes / 2, &err);
	printf(snapshots ? ", " : "}\n");
	if (!ret && snapshots)
		ret = cow_image_open(cow_host_system(), loop, path, &options, &image, &err);
	if (!ret && snapshots)
		ret = measure_all(image, loop);
	if (image) {
		int closed = cow_image_close(image, loop, &err);
		ret = ret ? ret : closed;
	}
	if (ret)
		fprintf(stderr, "pause: %s\n", err.text[0] ? err.text : strerror(-ret));
	return ret;
}

int main(int argc, char **argv)
{
	char path[4096];
	if (argc < 4) {
		fprintf(stderr, "usage: pause DIRECTORY SIZE_GIB CLUSTER_BYTES [--attach-only]\n");
		return 2;
	}
	snprintf(path, sizeof(path), "%s/bench-pause.%d.qcow2", argv[1], getpid());
	printf("{\"size_gib\": %s, \"cluster_bytes\": %s, ", argv[2], argv[3]);
	bool attach_only = argc > 4 && !strcmp(argv[4], "--attach-only");
	int ret = run(path, strtoull(argv[2], NULL, 10) << 30, (uint32_t)strtoul(argv[3], NULL, 10),
		      !attach_only);
	unlink(path);
	return ret ? 1 : 0;
}
