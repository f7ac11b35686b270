/* SPDX-License-Identifier: MIT */
/* Taking a device away that nobody uses, with all that was written to it stored. */
#ifndef COW_STOP_H
#define COW_STOP_H

#include <stdatomic.h>

#include "daemon/device/device.h"
#include "engine/base/result.h"

/*
 * Stops the LIVE device in the kernel: see cow_device_stop() without force. What the kernel could
 * not write back is noted in dev->lost.
 */
COW_MUST_CHECK int cow_stop_unused(struct cow_device *dev, const atomic_bool *given_up,
				   struct cow_error *err);

/* Says why the keeper could not stop it: returns ret. */
COW_MUST_CHECK int cow_stop_cannot(const struct cow_device *dev, int ret, struct cow_error *err);

#endif
