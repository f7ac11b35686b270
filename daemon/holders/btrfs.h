/* SPDX-License-Identifier: MIT */
/* Which btrfs has a device as one of its own. */
#ifndef COW_BTRFS_H
#define COW_BTRFS_H

#include "daemon/holders/stack.h"
#include "engine/base/result.h"

/* The first device in the stack of the btrfs that an open file lies on: its index, or -1. */
COW_MUST_CHECK int cow_btrfs_on_fd(const struct cow_stack *stack, int fd);
/* Is any btrfs that the kernel knows on the stack? */
COW_MUST_CHECK int cow_btrfs_on_any(const struct cow_stack *stack);

#endif
