/* SPDX-License-Identifier: MIT */
/* What the subcommands share: how an error is said, how a size is read. */
#ifndef COW_CMD_H
#define COW_CMD_H

#include "engine/base/result.h"

/* One line "cowblk: TEXT" to standard error; returns the exit status 1. */
int cow_cmd_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The same for a name that may mean two things: see cow_target_is_ambiguous(). */
int cow_cmd_fail_ambiguous(const char *name);

/*
 * "20G", "512", "1.5M", ... -> bytes (K M G T P E are powers of 1024, optional trailing "B" or
 * "iB"). 0 or -EINVAL.
 */
COW_MUST_CHECK int cow_cmd_parse_size(const char *text, unsigned long long *bytes);

#endif
