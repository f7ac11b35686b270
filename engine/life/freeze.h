/* SPDX-License-Identifier: MIT */
/*
 * Whole-image changes under a running device: freeze (new requests park, running ones end), settle
 * (freed clusters released, everything written back: the file says all that memory knows), change
 * the file as if the image were closed, load anew, thaw.
 *
 * Control plane, blocking, one at a time; loop is the caller's own. Requests wait meanwhile;
 * nothing fails them. Queues may go meanwhile, but none may be made: cow_queue_new() reads what is
 * loaded anew.
 */
#ifndef COW_FREEZE_H
#define COW_FREEZE_H

#include <stdatomic.h>

#include "engine/base/mutex.h"
#include "engine/life/image.h"
#include "engine/loop/task.h"

struct cow_freeze {
	atomic_bool frozen;
	struct cow_mutex lock;
	struct cow_waitlist parked; /* requests, until the thaw; lock */
};

/*
 * Freeze, settle, run change(ctx, loop, file, err), load anew, thaw. pause_ns (may be NULL): how
 * long requests were held. An error of settling leaves the image as it was; change's error is
 * returned, with the image loaded anew all the same. An image of which change says that nobody
 * knows what is on disk (-ENOTRECOVERABLE) is failed for writing, one that cannot be loaded anew
 * for reading too. Nothing of the engine's runs on loop any more when this returns.
 */
int cow_image_change_frozen(struct cow_image *image, struct cow_loop *loop,
			    int (*change)(void *ctx, struct cow_loop *loop, struct cow_file *file,
					  struct cow_error *err),
			    void *ctx, uint64_t *pause_ns, struct cow_error *err);

#endif
