/* SPDX-License-Identifier: MIT */
#include "bench/batch.h"

#include "engine/base/assert.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"

struct slot {
	struct bench_batch *batch;
	unsigned idx;
	bool free;
};

static void slot_done(void *ctx, int result)
{
	struct slot *slot = ctx;
	slot->free = true;
	slot->batch->finished++;
	if (result && !slot->batch->error)
		slot->batch->error = result;
}

static void submit(struct bench_batch *batch, struct slot *slot)
{
	bool data = batch->kind == COW_OP_READ || batch->kind == COW_OP_WRITE;
	char *buf = data ? batch->memory + slot->idx * batch->length_bytes : NULL;
	slot->free = false;
	cow_queue_submit(batch->queue, slot->idx, batch->kind, 0, batch->offsets[batch->next++],
			 batch->length_bytes, buf, slot_done, slot);
}

/* Requests are started between the loop's rounds, as the daemon does, not from inside a completion:
 * no recursion. */
int bench_batch_run(struct bench_batch *batch)
{
	struct slot slots[BENCH_MAX_DEPTH];
	cow_assert(batch->depth && batch->depth <= BENCH_MAX_DEPTH);
	for (unsigned i = 0; i < batch->depth; i++)
		slots[i] = (struct slot){ .batch = batch, .idx = i, .free = true };
	batch->next = batch->finished = 0;
	batch->error = 0;
	while (batch->finished < batch->nr) {
		for (unsigned i = 0; i < batch->depth && batch->next < batch->nr; i++)
			if (slots[i].free)
				submit(batch, &slots[i]);
		size_t running = batch->next - batch->finished;
		if (!running)
			continue;
		bool wait = running == batch->depth || batch->next == batch->nr;
		int ret = wait ? cow_loop_run(batch->loop) : cow_loop_poll(batch->loop);
		if (ret)
			return ret;
	}
	return batch->error;
}

struct flush {
	bool done;
	int result;
};

static void flush_done(void *ctx, int result)
{
	struct flush *flush = ctx;
	flush->result = result;
	flush->done = true;
}

int bench_flush(struct cow_queue *queue, struct cow_loop *loop)
{
	struct flush flush = { .done = false };
	cow_queue_submit(queue, 0, COW_OP_FLUSH, 0, 0, 0, NULL, flush_done, &flush);
	int ret = cow_loop_run_until(loop, &flush.done);
	return ret ? ret : flush.result;
}
