/* SPDX-License-Identifier: MIT */
/* Queues: a thread's requests, its reservation of clusters and its buffers. */
#include <errno.h>
#include <stdlib.h>

#include "engine/loop/guest.h"
#include "engine/base/math.h"
#include "engine/base/pages.h"
#include "engine/request/op.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "engine/request/start.h"
#include "engine/space/refill.h"

/* Of compressed clusters on their way, where a cluster is not larger than that. */
#define PACKED_BYTES (640u << 10)

/* What a compressed cluster is inflated into changes places with others, and is left out. */
void cow_queue_take_memory(struct cow_queue *queue)
{
	cow_pages_take(queue->bounce_memory, queue->all_bounces * (size_t)COW_BOUNCE_BYTES);
	cow_pages_take(queue->packed_memory, queue->all_packed * queue->packed_bytes);
}

/*
 * A few buffers serve most loads, and one is enough to get on: only that one's memory is taken now.
 */
static int alloc_buffers(struct cow_queue *queue)
{
	/* Not the chain's as it is now: buffers change places, and a chain may have become shorter. */
	uint32_t cluster = queue->image->inflated->cluster_bytes;
	/*
	 * A compressed cluster's length field reaches to twice the cluster; it starts anywhere in a
	 * sector.
	 */
	queue->packed_bytes = 2 * (size_t)cluster + 1024;
	queue->all_bounces = queue->image->core.limits.bounces;
	queue->all_packed = queue->packed_bytes > PACKED_BYTES
				    ? 1
				    : (unsigned)cow_min(PACKED_BYTES / queue->packed_bytes,
							queue->image->core.limits.packed);
	queue->bounce_memory = cow_pages_reserve(queue->all_bounces * (size_t)COW_BOUNCE_BYTES);
	queue->packed_memory = cow_pages_reserve(queue->all_packed * queue->packed_bytes);
	queue->unpacked_bytes = cluster;
	queue->unpacked = cow_pages_reserve(cluster);
	queue->inflate = cow_inflate_new();
	queue->ops = calloc(queue->nr_ops + 1, sizeof(*queue->ops));
	if (!queue->bounce_memory || !queue->packed_memory || !queue->unpacked || !queue->inflate ||
	    !queue->ops)
		return -ENOMEM;
	for (unsigned i = 0; i < queue->all_packed; i++)
		queue->packed[i] = queue->packed_memory + i * queue->packed_bytes;
	for (unsigned i = 0; i < queue->all_bounces; i++)
		queue->bounces[i] = queue->bounce_memory + (size_t)i * COW_BOUNCE_BYTES;
	queue->nr_packed = queue->all_packed;
	queue->nr_bounces = queue->all_bounces;
	cow_pages_take(queue->bounces[queue->nr_bounces - 1], COW_BOUNCE_BYTES);
	if (queue->image->keep_memory) {
		cow_queue_take_memory(queue);
		cow_pages_take(queue->unpacked, queue->unpacked_bytes);
	}
	return 0;
}

/* Both are stacks: what is used seldom lies at the bottom. */
void cow_queue_rest(struct cow_queue *queue)
{
	if (queue->image->keep_memory)
		return;
	for (unsigned i = 0; i + 1 < queue->nr_bounces; i++)
		cow_pages_give_back(queue->bounces[i], COW_BOUNCE_BYTES);
	for (unsigned i = 0; i + 1 < queue->nr_packed; i++)
		cow_pages_give_back(queue->packed[i], queue->packed_bytes);
}

static void free_buffers(struct cow_queue *queue)
{
	cow_pages_free(queue->bounce_memory, queue->all_bounces * (size_t)COW_BOUNCE_BYTES);
	cow_pages_free(queue->packed_memory, queue->all_packed * queue->packed_bytes);
	cow_assert(queue->unpacked_bytes == queue->image->inflated->cluster_bytes);
	cow_pages_free(queue->unpacked, queue->unpacked_bytes);
	free(queue->ops);
	cow_inflate_free(queue->inflate);
	cow_packer_fini(queue);
	for (unsigned i = 0; i < COW_MAX_BACKING_DEPTH; i++)
		cow_crypt_free(queue->crypts[i]);
	free(queue);
}

static int make_ciphers(struct cow_queue *queue)
{
	int ret = 0;
	for (struct cow_image *i = queue->image; i && !ret; i = i->backing)
		if (i->key)
			ret = cow_crypt_new(i->key, &queue->crypts[i->depth]);
	return ret;
}

static int attach(struct cow_queue *queue)
{
	struct cow_image *image = queue->image;
	int ret = -EMFILE;
	cow_mutex_lock(&image->queues_lock);
	for (unsigned i = 0; i < COW_MAX_QUEUES; i++) {
		if (image->queues[i])
			continue;
		image->queues[i] = queue;
		queue->idx = i;
		ret = 0;
		break;
	}
	cow_mutex_unlock(&image->queues_lock);
	return ret;
}

int cow_queue_new(struct cow_image *image, struct cow_loop *loop, unsigned nr_ops,
		  struct cow_queue **out)
{
	if (!nr_ops || nr_ops > COW_MAX_QUEUE_DEPTH)
		return -EINVAL;
	struct cow_queue *queue = calloc(1, sizeof(*queue));
	if (!queue)
		return -ENOMEM;
	queue->image = image;
	queue->loop = loop;
	queue->nr_ops = nr_ops;
	cow_waitlist_init(&queue->bounce_waiters);
	cow_waitlist_init(&queue->packed_waiters);
	cow_waitlist_init(&queue->packer_waiters);
	int ret = alloc_buffers(queue);
	if (!ret)
		ret = make_ciphers(queue);
	if (!ret)
		ret = cow_packer_init(queue);
	cow_reserve_init(&queue->reserve, &image->alloc);
	cow_refill_init(&queue->reserve);
	for (unsigned i = 0; !ret && i <= nr_ops; i++)
		cow_start_init(&queue->ops[i], queue, i);
	if (!ret)
		ret = attach(queue); /* last: a freeze looks at all queues */
	if (ret) {
		free_buffers(queue);
		return ret;
	}
	*out = queue;
	return 0;
}

/* The engine's own tasks that happen to run on this queue's loop must end before the loop does. */
static void settle(struct cow_queue *queue)
{
	struct cow_image *image = queue->image;
	atomic_store(&image->quarantine.leaving[queue->idx], queue->loop);
	while (queue->reserve.refilling ||
	       cow_quarantine_runs_on(&image->quarantine, queue->loop) ||
	       cow_commit_runs_on(&image->core.commit, queue->loop)) {
		atomic_store(&image->quarantine.hurry, true);
		if (cow_loop_run(queue->loop))
			break;
	}
	atomic_store(&image->quarantine.leaving[queue->idx], NULL);
}

static void keep_reservation_locked(struct cow_image *image, const struct cow_reserve *reserve)
	COW_REQUIRES(queues, image->queues_lock);
static void keep_reservation_locked(struct cow_image *image, const struct cow_reserve *reserve)
{
	unsigned nr = reserve->nr - reserve->pos;
	struct cow_reserved *left = realloc(image->left, (image->nr_left + nr + 1) * sizeof(*left));
	if (!left)
		return; /* leaked until a check */
	for (unsigned i = 0; i < nr; i++)
		left[image->nr_left++] = reserve->extents[reserve->pos + i];
	image->left = left;
}

/* Somebody may be waiting for it. */
void cow_queue_hand_over_release(struct cow_image *image)
{
	cow_mutex_lock(&image->queues_lock);
	for (unsigned i = 0; i < COW_MAX_QUEUES; i++) {
		struct cow_queue *other = image->queues[i];
		if (!other || other->leaving)
			continue;
		cow_quarantine_kick(&image->quarantine, other->loop);
		break;
	}
	cow_mutex_unlock(&image->queues_lock);
}

void cow_queue_free(struct cow_queue *queue)
{
	if (!queue)
		return;
	struct cow_image *image = queue->image;
	cow_mutex_lock(&image->queues_lock);
	queue->leaving = true;
	cow_mutex_unlock(&image->queues_lock);
	cow_packer_close(queue);
	if (!image->raw)
		settle(queue);
	cow_mutex_lock(&image->queues_lock);
	keep_reservation_locked(image, &queue->reserve);
	image->queues[queue->idx] = NULL;
	cow_mutex_unlock(&image->queues_lock);
	free_buffers(queue);
	if (image->core.writable)
		cow_queue_hand_over_release(image);
}

static void start(struct cow_op *op, enum cow_op_kind kind, unsigned flags, uint64_t offset,
		  uint64_t length, void *buf, cow_op_done_fn *done, void *ctx)
{
	op->kind = kind;
	op->flags = flags;
	op->off = kind == COW_OP_FLUSH ? 0 : offset;
	op->buf = buf;
	op->done = done;
	op->ctx = ctx;
	cow_start_request(op, kind == COW_OP_FLUSH ? 0 : length);
}

void cow_queue_submit(struct cow_queue *queue, unsigned idx, enum cow_op_kind kind, unsigned flags,
		      uint64_t offset, uint64_t length, void *buf, cow_op_done_fn *done, void *ctx)
{
	cow_assert(idx < queue->nr_ops);
	start(&queue->ops[idx], kind, flags, offset, length, buf, done, ctx);
}

void cow_queue_set_guest(struct cow_queue *queue, unsigned idx, const struct cow_guest *guest)
{
	cow_assert(idx < queue->nr_ops && !queue->ops[idx].active);
	queue->ops[idx].guest = guest;
}

struct wait_op {
	bool done;
	int result;
};

static void wait_op_done(void *ctx, int result)
{
	struct wait_op *w = ctx;
	w->result = result;
	w->done = true;
}

int cow_queue_do(struct cow_queue *queue, enum cow_op_kind kind, unsigned flags, uint64_t offset,
		 uint64_t length, void *buf)
{
	struct wait_op w = { 0 };
	start(&queue->ops[queue->nr_ops], kind, flags, offset, length, buf, wait_op_done, &w);
	int ret = cow_loop_run_until(queue->loop, &w.done);
	cow_assert(ret == 0);
	return w.result;
}
