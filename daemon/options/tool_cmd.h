/* SPDX-License-Identifier: MIT */
/*
 * The frame of the commands on whole closed disks: compare, convert, commit, ... . What they have in
 * common is here: the images on the command line, how they are opened, passphrases, signals, progress,
 * and how a failure is told. A command has what is its own in a struct that begins with a cow_tool.
 */
#ifndef COW_TOOL_CMD_H
#define COW_TOOL_CMD_H

#include <argp.h>
#include <stdatomic.h>

#include "daemon/options/args.h"
#include "daemon/options/disk_options.h"
#include "engine/tool/walk.h"

struct cow_tool;

struct cow_tool_verb {
	const struct argp_option *options;
	/* its own options and ARGP_KEY_END; state->input is the cow_tool */
	error_t (*parse)(int key, char *arg, struct argp_state *state);
	const char *args_doc, *doc;
	const struct cow_value_doc *values; /* what -o takes */
	unsigned take;			    /* COW_ARGS_... */
	unsigned min_images;		    /* 1: IMAGE must be given; 0: parse() looks itself */
	unsigned max_images;		    /* 0: any number */
	int failed_status;		    /* 0: 1 */
	/* May be NULL; with the passphrases, before signals are caught: what may wait for somebody. */
	int (*prepare)(struct cow_tool *tool, struct cow_error *err);
	/* Sets err, or the error number will do. -ECANCELED: because *tool->cancel became true. */
	int (*run)(struct cow_tool *tool, struct cow_error *err);
	/* May be NULL: the result, after the progress has gone away. Returns the exit status. */
	int (*tell)(const struct cow_tool *tool);
};

/* Zeroed by the caller. */
struct cow_tool {
	const struct cow_tool_verb *verb;
	struct cow_disk_options disks;
	struct cow_args common;
	const char **images; /* at least two more NULL behind them */
	unsigned nr_images;
	int failed_status;
	const char
		*failed_image; /* whose failure it is: the first image, until run() says another */
	/* while it runs */
	struct cow_loop *loop;
	const atomic_bool *cancel;
	struct cow_progress progress;
};

/* Ends the process where the command line is wrong. */
void cow_tool_parse(const struct cow_tool_verb *verb, int argc, char **argv, struct cow_tool *tool);

/*
 * Returns the exit status, after a line for a failure; what was interrupted ends by its signal. A
 * signal that came too late to stop anything counts for nothing.
 */
COW_MUST_CHECK int cow_tool_run(struct cow_tool *tool);

/* The image of that number, for reading; of a failure it is the one to be named. */
COW_MUST_CHECK int cow_tool_open(struct cow_tool *tool, unsigned image, enum cow_disk_format format,
				 const char *snapshot, struct cow_disk **disk,
				 struct cow_error *err);

#endif
