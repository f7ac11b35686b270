/* SPDX-License-Identifier: MIT */
/* What the running kernel's ublk can be trusted with, beyond what it says of itself. */
#ifndef COW_KERNEL_H
#define COW_KERNEL_H

#include "engine/base/error.h"
#include "engine/base/result.h"

/* Is ublk to be had, with a recovery that loses nothing? 0, or -errno and a text. */
COW_MUST_CHECK int cow_kernel_find_recovery(struct cow_error *err);

#endif
