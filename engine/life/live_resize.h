/* SPDX-License-Identifier: MIT */
/*
 * Another disk size for a running image.
 *
 * The L1 table, if it has to grow, gets clusters of the image's allocator, whose refcounts are
 * durable before anything is said to lie there. Freeze: what the last cluster has behind the old end
 * becomes zeros | the longer table | the header, which switches size and table at once; thaw; the
 * old table is freed. A loss of power leaves the image with the old size or the new one, with a
 * leak at most. The pause does not depend on the image's size but for the L1 table (32 MiB at most).
 *
 * Where the allocator has no run of clusters that long (see live.h), and whenever the disk becomes
 * smaller, the file is changed all under the freeze, as a closed image (engine/edit/resize.h): the
 * pause grows with the L2 tables behind the new end, whose clusters are freed before it.
 * Requests that wait then and reach behind the new end fail.
 */
#ifndef COW_LIVE_RESIZE_H
#define COW_LIVE_RESIZE_H

#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/edit/resize.h"

struct cow_image;

/*
 * From the control thread; loop is the caller's own. *size_bytes: what the disk has now, whatever
 * is returned; the size that it has already is no error. pause_ns: how long requests were held.
 * Refused: what cow_resize() refuses, and to grow with snapshots that do not say their own size.
 * Errors as of cow_image_change_frozen(), with the reason in err.
 */
COW_MUST_CHECK int cow_image_resize(struct cow_image *image, struct cow_loop *loop,
				    const struct cow_resize_options *options, uint64_t *size_bytes,
				    uint64_t *pause_ns, struct cow_error *err);

#endif
