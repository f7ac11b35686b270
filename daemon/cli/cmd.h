/* SPDX-License-Identifier: MIT */
/*
 * Subcommands. main.c holds the table; each has a file cmd_NAME.c.
 * argv[0] is "cowblk NAME" (so that argp's messages say it). Returns the exit status.
 */
#ifndef COW_CMD_H
#define COW_CMD_H

#include "engine/base/result.h"

COW_MUST_CHECK int cow_cmd_amend(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_attach(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_bitmap(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_check(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_commit(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_compare(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_convert(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_create(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_detach(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_info(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_list(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_map(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_measure(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_rebase(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_resize(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_snapshot(int argc, char **argv);

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
