/* SPDX-License-Identifier: MIT */
/* cowblk resize: give an image another disk size, on its device too where it is attached. */
#include "daemon/cli/commands.h"
#include "daemon/options/closed.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <ctype.h>
#include <string.h>

#include "daemon/client/ask_resize.h"
#include "daemon/options/args.h"
#include "daemon/options/named.h"
#include "daemon/options/values.h"
#include "daemon/control/target.h"
#include "engine/edit/resize.h"
#include "engine/host/system.h"
#include "engine/loop/loop_plain.h"

struct arguments {
	struct cow_resize_options options;
	const char *image, *size;
};

enum { KEY_PREALLOCATION = 256 };

static const struct argp_option options[] = {
	{ "preallocation", KEY_PREALLOCATION, "off|metadata|falloc|full", 0,
	  "Space for what is added: none (off), mapped only, reserved on the host too, or full of "
	  "zeros",
	  0 },
	{ "shrink", 's', NULL, 0,
	  "The disk may become smaller: what lies behind its new end is lost", 0 },
	{ 0 },
};

static error_t parse_word(struct arguments *a, const char *word)
{
	if (!a->image)
		a->image = word;
	else if (!a->size)
		a->size = word;
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	switch (key) {
	case 's':
		a->options.shrink = true;
		return 0;
	case KEY_PREALLOCATION:
		if (!cow_value_preallocation(arg, &a->options.preallocation))
			argp_error(state,
				   "--preallocation %s: must be off, metadata, falloc or full",
				   arg);
		return 0;
	case ARGP_KEY_ARG:
		return parse_word(a, arg);
	case ARGP_KEY_END:
		if (!a->image || !a->size)
			argp_error(state, "%s is missing", a->image ? "SIZE" : "IMAGE");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static bool parse_size(struct arguments *a)
{
	unsigned long long bytes;
	const char *text = a->size;
	a->options.sign = (*text == '+') - (*text == '-');
	if (cow_cmd_parse_size(text + (a->options.sign != 0), &bytes))
		return false;
	a->options.bytes = bytes;
	return true;
}

static int resize(const void *ctx, struct cow_loop *loop, struct cow_file *file,
		  struct cow_error *err)
{
	const struct arguments *a = ctx;
	return cow_resize(loop, file, &a->options, err);
}

/* "-1G" at the end is a size, not an option. */
static const char *negative_size(int *argc, char **argv)
{
	const char *last = *argc > 2 ? argv[*argc - 1] : "";
	if (last[0] != '-' || !isdigit((unsigned char)last[1]))
		return NULL;
	argv[--*argc] = NULL;
	return last;
}

int cow_cmd_resize(int argc, char **argv)
{
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "IMAGE|DEVICE [+|-]SIZE",
		.doc = "Give a disk another size: SIZE bytes "
		       "(k, M, G, T: powers of 1024), or that much more "
		       "or less.\v"
		       "Make a file system smaller before its disk, and larger after it. An "
		       "attached one can become larger, mounted too, and smaller where nothing "
		       "lies (Linux 6.16). A crash "
		       "leaves the image as it was or as it shall be.",
	};
	struct arguments a = { 0 };
	struct cow_target target = { 0 };
	a.size = negative_size(&argc, argv);
	struct cow_args args = { 0 };
	cow_args_parse(&argp, COW_ARGS_QUIET | COW_ARGS_FORMAT, argc, argv, &args, &a);
	if (!parse_size(&a)) {
		cow_cmd_fail("size %s: must be a number with an optional k, M, G, T, P or E",
			     a.size);
		return COW_EXIT_USAGE;
	}
	if (cow_target_is_ambiguous(a.image))
		return cow_cmd_fail_ambiguous(a.image);
	bool attached = cow_target_writer(a.image, &target);
	if (attached && a.options.preallocation)
		return cow_cmd_fail("--preallocation: %s is attached as /dev/ublkb%u: detach it "
				    "first",
				    a.image, target.id);
	if (attached)
		return cow_ask_resize(target, &a.options);
	if (cow_target_image(a.image, &target.id, 1) > 0)
		return cow_cmd_fail("%s: is attached read-only as /dev/ublkb%u: detach it first",
				    a.image, target.id);
	return cow_closed_run(a.image, COW_OPEN_WRITE, resize, &a);
}
