/* SPDX-License-Identifier: MIT */
/*
 * Subcommands. main.c holds the table; each has a file cmd_NAME.c.
 * argv[0] is "cowblk NAME" (so that argp's messages say it). Returns the exit status.
 */
#ifndef COW_COMMANDS_H
#define COW_COMMANDS_H

#include "engine/base/result.h"

COW_MUST_CHECK int cow_cmd_amend(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_attach(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_bitmap(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_check(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_commit(int argc, char **argv);
COW_MUST_CHECK int cow_cmd_compact(int argc, char **argv);
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

#endif
