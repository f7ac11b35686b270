/* SPDX-License-Identifier: MIT */
/*
 * Are the files that an image has open of use to another user? A host may look at who asks, not only
 * at who opened: FUSE without allow_other lets nobody but its mounter change a file's length.
 */
#ifndef COW_TRIAL_H
#define COW_TRIAL_H

#include "daemon/device/sandbox.h"
#include "engine/life/image.h"

/*
 * Tries each file as the sandbox's user, in a process of its own. Where one is refused the sandbox has
 * no user any more, and its `kept` says why. Before other threads exist; the image is open.
 */
void cow_trial_run(struct cow_sandbox *sandbox, const struct cow_image *image);

#endif
