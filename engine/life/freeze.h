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

#include "engine/base/result.h"
#include "engine/life/image.h"

typedef int cow_frozen_fn(void *ctx, struct cow_loop *loop, struct cow_file *file,
			  struct cow_error *err);

/*
 * Freeze, settle, run change(ctx, loop, file, err), load anew, thaw. pause_ns (may be NULL): how
 * long requests were held. An error of settling leaves the image as it was; change's error is
 * returned, with the image loaded anew all the same. An image of which change says that nobody
 * knows what is on disk (-ENOTRECOVERABLE) is failed for writing, one that cannot be loaded anew
 * for reading too. Nothing of the engine's runs on loop any more when this returns.
 */
COW_MUST_CHECK int cow_image_change_frozen(struct cow_image *image, struct cow_loop *loop,
					   cow_frozen_fn *change, void *ctx, uint64_t *pause_ns,
					   struct cow_error *err);

/* ---- its parts, for changes that have work to do before and after the freeze ---- */

/* -EBUSY if another change is under way, -EROFS. */
COW_MUST_CHECK int cow_freeze_begin(struct cow_image *image, struct cow_error *err);
void cow_freeze_end(struct cow_image *image);
/* Between the two. The change takes space by the allocator of the image only, and frees none. */
COW_MUST_CHECK int cow_freeze_switch(struct cow_image *image, struct cow_loop *loop,
				     cow_frozen_fn *change, void *ctx, uint64_t *pause_ns,
				     struct cow_error *err);
/* The same, for a change that treats the file as if the image were closed. */
COW_MUST_CHECK int cow_freeze_rewrite(struct cow_image *image, struct cow_loop *loop,
				      cow_frozen_fn *change, void *ctx, uint64_t *pause_ns,
				      struct cow_error *err);
/* Does a queue fill its reservation just now? A freeze would wait for that. */
bool cow_freeze_refills(struct cow_image *image);
/* No pass runs from here to the thaw, unless cow_commit_resume() lets them. */
COW_MUST_CHECK int cow_freeze_hold_passes(struct cow_image *image, struct cow_loop *loop);
/* A moment, in which others run. */
COW_MUST_CHECK int cow_freeze_nap(struct cow_loop *loop);
/* loop may go when this returns: what of the engine runs there ends, or goes on elsewhere. */
void cow_freeze_leave_loop(struct cow_image *image, struct cow_loop *loop);

#endif
