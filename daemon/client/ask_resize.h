/* SPDX-License-Identifier: MIT */
/* Another size for the disk of an attached image, seen by the kernel too: see daemon/server/serve_resize.h. */
#ifndef COW_ASK_RESIZE_H
#define COW_ASK_RESIZE_H

#include "daemon/control/target.h"
#include "engine/base/result.h"
#include "engine/edit/resize.h"

/*
 * Larger: first the image, then the kernel's device; smaller: the other way round, and not below
 * what is in use or partitioned (shrink.h). Nothing is changed where the kernel cannot. Said again
 * after an interruption it does what is left, unless it was a difference. Waits for another resize
 * of the device, and says so. Tells errors; exit status.
 */
COW_MUST_CHECK int cow_ask_resize(struct cow_target target,
				  const struct cow_resize_options *options);

#endif
