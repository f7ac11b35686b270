/* SPDX-License-Identifier: MIT */
/* Opening, for those who see the inside of an image; for all others: image.h. */
#ifndef COW_OPEN_H
#define COW_OPEN_H

#include "engine/base/result.h"
#include "engine/life/image.h"

/*
 * Header, L1, refcount table anew; caches dropped; the allocator starts over. Frozen: all queues
 * idle, nothing dirty.
 */
COW_MUST_CHECK int cow_image_reload(struct cow_image *image, struct cow_loop *loop,
				    struct cow_error *err);
/* The image and those below. */
void cow_image_free(struct cow_image *image);

#endif
