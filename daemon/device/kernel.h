/* SPDX-License-Identifier: MIT */
/* What the running kernel's ublk can be trusted with, beyond what it says of itself. */
#ifndef COW_KERNEL_H
#define COW_KERNEL_H

#include <stdbool.h>

#include "engine/base/error.h"
#include "engine/base/result.h"

/* Is ublk to be had, with a recovery that loses nothing? 0, or -errno and a text. */
COW_MUST_CHECK int cow_kernel_find_recovery(struct cow_error *err);

/* A line to the log if this kernel is known for what it does to devices. Before one is made: it may be the last. */
void cow_kernel_warn(void);

/* The two by the name of a kernel, as uname -r says it. NULL: nothing is known against it. */
const char *cow_kernel_find_bug(const char *release);
bool cow_kernel_recovers(const char *release);

#endif
