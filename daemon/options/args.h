/* SPDX-License-Identifier: MIT */
/*
 * Command lines: what all subcommands have in common. A subcommand has its argp for what is its
 * own; what qemu-img's commands all take, and how a wrong command line ends, is here.
 */
#ifndef COW_ARGS_H
#define COW_ARGS_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/result.h"

/* The status of a command line that is wrong; but see COW_ARGS_OWN_STATUS_2. */
#define COW_EXIT_USAGE 2

/* Which of the common options a subcommand takes. */
enum {
	COW_ARGS_QUIET = 1,	   /* -q, --quiet */
	COW_ARGS_OUTPUT = 2,	   /* --json, --output=json|human */
	COW_ARGS_FORMAT = 4,	   /* -f FORMAT, -O FORMAT: of an image, which is always qcow2 */
	COW_ARGS_SHARE = 8,	   /* -U: the image may be in use, as it may anyway */
	COW_ARGS_PROGRESS = 16,	   /* -p */
	COW_ARGS_EMPTY_VALUE = 64, /* an option's value may be empty: -b "" */
	COW_ARGS_EMPTY = 32, /* an argument may be empty: there are snapshots without a name */
	COW_ARGS_OWN_STATUS_2 =
		128, /* 2 says something else: a wrong command line is a failure, 1 */
};

struct cow_value_doc;

struct cow_args {
	bool quiet, json, share, progress;
	/* Set by the caller: what -o NAME=VALUE takes, if the subcommand has that. */
	const struct cow_value_doc *values;
};

/*
 * Parses all of argv by `argp`, whose parser's input is `input`, and by the common options of
 * `take`; *args is set before ARGP_KEY_END reaches argp's parser. Ends the process with one of the
 * two words that are allowed to end it here: help asked for (0), a wrong command line
 * (COW_EXIT_USAGE).
 */
void cow_args_parse(const struct argp *argp, unsigned take, int argc, char **argv,
		    struct cow_args *args, void *input);

/* For a subcommand that takes one IMAGE: the end of its parser, for the keys that are none of its own. */
COW_MUST_CHECK error_t cow_args_one_image(int key, char *arg, const struct argp_state *state,
					  const char **image);

/* From now on cow_args_parse() says what could come next, for a shell, and ends the process: 0. */
void cow_args_complete(void);

/*
 * The known word that was probably meant, or NULL: few letters are wrong, missing, too many or
 * swapped. word(ctx, i) is the i-th, NULL at the end.
 */
const char *cow_args_nearest(const char *typed, const char *(*word)(const void *ctx, size_t i),
			     const void *ctx);

/*
 * Ends the process: word is none of the actions that argp's args_doc begins its lines with, "list IMAGE"
 * and so on. They are told, and the nearest.
 */
void cow_args_no_action(const struct argp_state *state, const char *word);

#endif
