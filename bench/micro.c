/* SPDX-License-Identifier: MIT */
/*
 * micro [--outlive] CASE [COUNT [DEPTH [IMAGE]]]
 *
 * What the engine itself costs for a request: COUNT requests of CASE at random offsets (sequential
 * where the case says so) over a host of memory, guest data not copied. Prints nanoseconds and host
 * I/Os for a request; bench/instructions counts its instructions. Without IMAGE a new one of 1 GiB,
 * written full where the case needs it. --outlive: the metadata lies in memory that outlives the process,
 * as that of a device which is recovered.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench/batch.h"
#include "bench/memory.h"
#include "engine/base/assert.h"
#include "engine/base/buf.h"
#include "engine/create/create.h"
#include "engine/life/image.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"

#define IMAGE_BYTES (1ull << 30)
#define FILL_BYTES (512u << 10)

enum order {
	RANDOM,
	SEQUENTIAL,
};

struct micro_case {
	const char *name;
	enum cow_op_kind kind;
	uint64_t length_bytes;
	enum order order;
	bool full; /* on an image that is written already */
};

static const struct micro_case cases[] = {
	{ "read-4k", COW_OP_READ, 4096, RANDOM, true },
	{ "write-4k", COW_OP_WRITE, 4096, RANDOM, true },
	{ "read-512k", COW_OP_READ, 512 << 10, SEQUENTIAL, true },
	{ "write-512k", COW_OP_WRITE, 512 << 10, SEQUENTIAL, true },
	{ "read-empty-4k", COW_OP_READ, 4096, RANDOM, false },
	{ "first-write-4k", COW_OP_WRITE, 4096, RANDOM, false },
	{ "first-write-512k", COW_OP_WRITE, 512 << 10, SEQUENTIAL, false },
	{ "discard-64k", COW_OP_DISCARD, 64 << 10, RANDOM, true },
	{ "write-zeroes-64k", COW_OP_WRITE_ZEROES, 64 << 10, RANDOM, true },
	{ "flush", COW_OP_FLUSH, 4096, RANDOM, true }, /* of what is clean; takes no range */
};

struct micro {
	const struct micro_case *which;
	struct cow_loop *loop;
	struct cow_image *image;
	struct cow_queue *queue;
	char *memory;
	unsigned depth;
	bool outlives;
};

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t *make_offsets(size_t nr, uint64_t length_bytes, uint64_t disk_bytes,
			      enum order order)
{
	uint64_t *offsets = malloc(nr * sizeof(*offsets)), state = 88172645463325252u;
	cow_assert(offsets);
	for (size_t i = 0; i < nr; i++) {
		uint64_t n = order == SEQUENTIAL ? i : next_random(&state);
		offsets[i] = n % (disk_bytes / length_bytes) * length_bytes;
	}
	return offsets;
}

/* The name is callgrind's switch: keep it a function of its own. */
__attribute__((noinline)) int measured(struct bench_batch *batch);
__attribute__((noinline)) int measured(struct bench_batch *batch)
{
	int ret = bench_batch_run(batch);
	__asm__ volatile(""); /* a tail call would leave the function before its work begins */
	return ret;
}

static struct bench_batch make_batch(const struct micro *m, enum cow_op_kind kind,
				     uint64_t length_bytes, size_t nr, enum order order)
{
	uint64_t disk_bytes = cow_image_geometry(m->image)->size_bytes;
	return (struct bench_batch){
		.queue = m->queue,
		.loop = m->loop,
		.kind = kind,
		.length_bytes = length_bytes,
		.nr = nr,
		.depth = m->depth,
		.memory = m->memory,
		.offsets = make_offsets(nr, length_bytes, disk_bytes, order),
	};
}

static int fill(const struct micro *m)
{
	size_t nr = cow_image_geometry(m->image)->size_bytes / FILL_BYTES;
	struct bench_batch batch = make_batch(m, COW_OP_WRITE, FILL_BYTES, nr, SEQUENTIAL);
	int ret = bench_batch_run(&batch);
	free((void *)(uintptr_t)batch.offsets);
	return ret ? ret : bench_flush(m->queue, m->loop);
}

static int run(const struct micro *m, size_t nr)
{
	struct bench_batch batch =
		make_batch(m, m->which->kind, m->which->length_bytes, nr, m->which->order);
	/* Once before: caches are warm, tables are there. First writes must stay first. */
	if (m->which->full && m->which->kind != COW_OP_DISCARD &&
	    m->which->kind != COW_OP_WRITE_ZEROES) {
		int ret = bench_batch_run(&batch);
		if (ret)
			return ret;
	}
	bench_memory_ios();
	uint64_t start = cow_loop_now(m->loop);
	int ret = measured(&batch);
	uint64_t spent = cow_loop_now(m->loop) - start;
	printf("{\"case\": \"%s\", \"requests\": %zu, \"depth\": %u, \"ns_per_request\": %.0f, "
	       "\"host_ios_per_request\": %.2f}\n",
	       m->which->name, nr, m->depth, (double)spent / (double)nr,
	       (double)bench_memory_ios() / (double)nr);
	free((void *)(uintptr_t)batch.offsets);
	return ret;
}

static int open_image(struct micro *m, const char *path, struct cow_error *err)
{
	struct cow_create_options create = { .size_bytes = IMAGE_BYTES, .has_size = true };
	struct cow_open_options open = { .writable = true };
	if (m->outlives)
		open.outlive_fd = memfd_create("micro", MFD_CLOEXEC);
	if (open.outlive_fd < 0)
		return cow_error_set(err, -errno, "memfd_create: %s", strerror(errno));
	int ret = path ? 0 : cow_create(bench_memory_host(), m->loop, "micro.qcow2", &create, err);
	return ret ? ret
		   : cow_image_open(bench_memory_host(), m->loop, path ? path : "micro.qcow2",
				    &open, &m->image, err);
}

static const struct micro_case *find_case(const char *name)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (!strcmp(cases[i].name, name))
			return &cases[i];
	return NULL;
}

static int usage(void)
{
	fprintf(stderr, "usage: micro [--outlive] CASE [COUNT [DEPTH [IMAGE]]], CASE one of:");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		fprintf(stderr, " %s", cases[i].name);
	fprintf(stderr, "\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct micro m = { .outlives = argc > 1 && !strcmp(argv[1], "--outlive") };
	argc -= m.outlives;
	argv += m.outlives;
	m.which = argc > 1 ? find_case(argv[1]) : NULL;
	size_t nr = argc > 2 ? strtoul(argv[2], NULL, 10) : 10000;
	m.depth = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 32;
	if (!m.which || argc > 5 || !nr || !m.depth || m.depth > BENCH_MAX_DEPTH)
		return usage();
	struct cow_error err = { 0 };
	m.memory = cow_buf_alloc((size_t)m.depth * FILL_BYTES);
	if (!m.memory || bench_memory_loop_new(&m.loop))
		return 1;
	bench_memory_ignore(m.memory, (size_t)m.depth * FILL_BYTES);
	int ret = open_image(&m, argc > 4 ? argv[4] : NULL, &err);
	if (!ret)
		ret = cow_queue_new(m.image, m.loop, m.depth, &m.queue);
	if (!ret && m.which->full && argc <= 4)
		ret = fill(&m);
	if (!ret)
		ret = run(&m, nr);
	if (m.queue)
		cow_queue_free(m.queue);
	int closed = m.image ? cow_image_close(m.image, m.loop, &err) : 0;
	ret = ret ? ret : closed;
	if (ret)
		fprintf(stderr, "micro: %s: %s (%s)\n", argv[1], err.text, strerror(-ret));
	cow_loop_free(m.loop);
	free(m.memory);
	return ret ? 1 : 0;
}
