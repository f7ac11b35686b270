/* SPDX-License-Identifier: MIT */
/*
 * count IMAGE write|discard|read BYTES DEPTH < OFFSETS
 *
 * Runs guest requests of BYTES at the offsets (decimal, one a line) with DEPTH in flight, then one
 * FLUSH, then closes the image, and prints what the engine asked of the host by then, as JSON:
 * requests that do not depend on the machine. The loop is the real one with a counter before its
 * start().
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/batch.h"
#include "engine/base/buf.h"
#include "engine/host/system.h"
#include "engine/life/image.h"
#include "engine/loop/loop_plain.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"

struct counters {
	uint64_t reads, writes, flushes, punches, resizes;
	uint64_t bytes_read, bytes_written;
};

static struct counters counted;
static const struct cow_loop_ops *real_ops;

static void count(const struct cow_io *io)
{
	switch (io->kind) {
	case COW_IO_READ:
		counted.reads++;
		counted.bytes_read += io->length;
		break;
	case COW_IO_WRITE:
		counted.writes++;
		counted.bytes_written += io->length;
		break;
	case COW_IO_SYNC:
		counted.flushes++;
		break;
	case COW_IO_PUNCH:
		counted.punches++;
		break;
	case COW_IO_RESIZE:
		counted.resizes++;
		break;
	case COW_IO_TIMER:
		break;
	}
}

static void counting_start(struct cow_loop *loop, struct cow_io *io)
{
	if (!io->progress_bytes)
		count(io);
	real_ops->start(loop, io);
}

static struct cow_loop *counting_loop(void)
{
	static struct cow_loop_ops ops;
	struct cow_loop *loop;
	if (cow_loop_plain_new(&loop))
		return NULL;
	real_ops = loop->ops;
	ops = *real_ops;
	ops.start = counting_start;
	loop->ops = &ops;
	return loop;
}

static void print(const char *name, const char *end)
{
	printf("\"%s\": {\"writes\": %" PRIu64 ", \"flushes\": %" PRIu64
	       ", \"bytes_written\": %" PRIu64 ", \"reads\": %" PRIu64 ", \"bytes_read\": %" PRIu64
	       ", \"punches\": %" PRIu64 ", \"resizes\": %" PRIu64 "}%s",
	       name, counted.writes, counted.flushes, counted.bytes_written, counted.reads,
	       counted.bytes_read, counted.punches, counted.resizes, end);
}

static size_t read_offsets(uint64_t **out)
{
	size_t nr = 0, room = 1024;
	uint64_t *offsets = malloc(room * sizeof(*offsets));
	while (offsets && scanf("%" SCNu64, &offsets[nr]) == 1) {
		if (++nr < room)
			continue;
		room *= 2;
		uint64_t *larger = realloc(offsets, room * sizeof(*offsets));
		if (!larger)
			free(offsets);
		offsets = larger;
	}
	*out = offsets;
	return nr;
}

static int parse_kind(const char *word, enum cow_op_kind *kind)
{
	static const struct {
		const char *word;
		enum cow_op_kind kind;
	} kinds[] = {
		{ "read", COW_OP_READ },
		{ "write", COW_OP_WRITE },
		{ "discard", COW_OP_DISCARD },
	};
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(word, kinds[i].word))
			continue;
		*kind = kinds[i].kind;
		return 0;
	}
	return -1;
}

static int run(struct cow_image *image, struct bench_batch *batch)
{
	int ret = cow_queue_new(image, batch->loop, batch->depth, &batch->queue);
	if (ret)
		return ret;
	ret = bench_batch_run(batch);
	if (!ret)
		ret = bench_flush(batch->queue, batch->loop);
	print("at_flush", ", ");
	cow_queue_free(batch->queue);
	return ret;
}

int main(int argc, char **argv)
{
	struct bench_batch batch = { 0 };
	if (argc != 5 || parse_kind(argv[2], &batch.kind)) {
		fprintf(stderr, "usage: count IMAGE write|discard|read BYTES DEPTH < OFFSETS\n");
		return 2;
	}
	batch.length_bytes = strtoull(argv[3], NULL, 10);
	batch.depth = (unsigned)strtoul(argv[4], NULL, 10);
	if (!batch.depth || batch.depth > BENCH_MAX_DEPTH || !batch.length_bytes ||
	    batch.length_bytes > COW_MAX_OP_BYTES) {
		fprintf(stderr, "count: BYTES 1..%u, DEPTH 1..%u\n", COW_MAX_OP_BYTES,
			BENCH_MAX_DEPTH);
		return 2;
	}
	uint64_t *offsets;
	batch.nr = read_offsets(&offsets);
	batch.offsets = offsets;
	batch.memory = cow_buf_alloc(batch.length_bytes * batch.depth);
	batch.loop = counting_loop();
	if (!offsets || !batch.memory || !batch.loop)
		return 1;
	memset(batch.memory, 0x11, batch.length_bytes * batch.depth);

	struct cow_open_options options = { .writable = true };
	struct cow_image *image;
	struct cow_error err = { 0 };
	int ret = cow_image_open(cow_host_system(), batch.loop, argv[1], &options, &image, &err);
	if (!ret) {
		memset(&counted, 0, sizeof(counted));
		printf("{");
		ret = run(image, &batch);
		int closed = cow_image_close(image, batch.loop, &err);
		print("at_close", "}\n");
		ret = ret ? ret : closed;
	}
	if (ret)
		fprintf(stderr, "count: %s: %s (%s)\n", argv[1], err.text, strerror(-ret));
	cow_loop_free(batch.loop);
	free(batch.memory);
	free(offsets);
	return ret ? 1 : 0;
}
