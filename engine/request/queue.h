/* SPDX-License-Identifier: MIT */
/* Queues: a thread's requests on an image. */
#ifndef COW_QUEUE_H
#define COW_QUEUE_H

#include <stdint.h>

#include "engine/base/result.h"
#include "engine/request/kind.h"

struct cow_guest;
struct cow_image;
struct cow_loop;
struct cow_queue;

/*
 * A queue's ops run on loop's thread. nr_ops requests may be in flight. At most COW_MAX_QUEUES per
 * image.
 */
COW_MUST_CHECK int cow_queue_new(struct cow_image *image, struct cow_loop *loop, unsigned nr_ops,
				 struct cow_queue **out);
/*
 * Owner thread, now and then after a burst: gives back the memory of buffers that are not in use, but
 * for one of each kind.
 */
void cow_queue_rest(struct cow_queue *queue);
/*
 * Any thread that may wait for memory: takes that of all buffers. Whoever wants it kept does not
 * call cow_queue_rest().
 */
void cow_queue_take_memory(struct cow_queue *queue);
/* All its ops are finished. Keeps the queue's reservation in the image until close. */
void cow_queue_free(struct cow_queue *queue);

/*
 * Starts request idx (0 <= idx < nr_ops, not in flight) on the queue; owner thread only. offset and
 * length are multiples of
 * 512 inside the disk (checked: else -EINVAL). buf: 512-aligned memory of length bytes for READ and WRITE, the caller's until
 * done. done(ctx, 0 or -errno) runs on the queue's thread, possibly before this call returns.
 * Errors that callers distinguish: -ENOSPC (host full), -EROFS (read-only or failed for writing),
 * -EIO.
 */
void cow_queue_submit(struct cow_queue *queue, unsigned idx, enum cow_op_kind kind, unsigned flags,
		      uint64_t offset, uint64_t length, void *buf, cow_op_done_fn *done, void *ctx);

/*
 * Just before a READ or WRITE is submitted as idx, with guest->base for its buf: its bytes are in the
 * guest's pages. *guest is the caller's until done; base is used where somebody has to look at them.
 */
void cow_queue_set_guest(struct cow_queue *queue, unsigned idx, const struct cow_guest *guest);

/* Blocking form for tools and tests: uses its own op slot, any length. */
COW_MUST_CHECK int cow_queue_do(struct cow_queue *queue, enum cow_op_kind kind, unsigned flags,
				uint64_t offset, uint64_t length, void *buf);

/*
 * The release of freed clusters may have stopped halfway because its loop goes: it goes on on that
 * of a queue, if there is one.
 */
void cow_queue_hand_over_release(struct cow_image *image);

#endif
