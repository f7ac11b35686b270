/* SPDX-License-Identifier: MIT */
/* Which btrfs has a device as one of its own. */
#ifndef COW_BTRFS_H
#define COW_BTRFS_H

#include "daemon/holders/stack.h"
#include "engine/base/result.h"

/* The first device of btrfs `uuid` ("01234567-...") in the stack: its index, or -1. */
COW_MUST_CHECK int cow_btrfs_on(const struct cow_stack *stack, const char *uuid);
/* The same of the btrfs that an open file lies on. */
COW_MUST_CHECK int cow_btrfs_on_fd(const struct cow_stack *stack, int fd);
/* Is any btrfs that the kernel knows on the stack? */
COW_MUST_CHECK int cow_btrfs_on_any(const struct cow_stack *stack);

#endif
