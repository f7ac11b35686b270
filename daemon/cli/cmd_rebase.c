/* SPDX-License-Identifier: MIT */
/* cowblk rebase: an image gets another backing file. Options of `qemu-img rebase`. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>

#include "daemon/options/tool_cmd.h"
#include "engine/host/system.h"
#include "engine/tool/backing_rebase.h"

struct arguments {
	struct cow_tool tool; /* first */
	struct cow_backing_rebase rebase;
	bool has_base;
};

enum { KEY_DATA_ROOT = 256 };

static const struct argp_option options[] = {
	{ "base", 'b', "BASE", 0,
	  "The new backing file, relative to IMAGE's directory; -b \"\" or --flatten: none", 0 },
	{ "flatten", 'n', NULL, 0, "No backing file any more: IMAGE takes all that it shows", 0 },
	{ "backing-format", 'F', "qcow2|raw", 0, "Format of BASE: qcow2 or raw", 0 },
	{ "unsafe", 'u', NULL, 0,
	  "Only change the name: neither backing file is looked at, IMAGE may show something else",
	  0 },
	{ "target-cache", 't', COW_CACHE_MODES, 0, "none, directsync: write past the page cache",
	  0 },
	COW_DISK_DATA_ROOT_OPTION(KEY_DATA_ROOT),
	{ 0 },
};

static error_t finish(struct arguments *a, struct argp_state *state)
{
	if (!a->has_base)
		argp_error(state, "-b is missing: the new backing file, or --flatten");
	if (a->rebase.base && !a->rebase.format)
		argp_error(state, "-F is missing: the new backing file's format, qcow2 or raw");
	return 0;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	bool unsafe;
	switch (key) {
	case 'b':
		a->rebase.base = *arg ? arg : NULL;
		a->has_base = true;
		return 0;
	case 'n':
		a->rebase.base = NULL;
		a->has_base = true;
		return 0;
	case 'F':
		cow_disk_format_parse("-F", arg, state);
		a->rebase.format = arg;
		return 0;
	case 'u':
		a->rebase.unsafe = true;
		return 0;
	case KEY_DATA_ROOT:
		cow_disk_add_data_root(&a->tool.disks, arg, state);
		return 0;
	case 't':
		a->tool.disks.direct = cow_disk_cache_parse("-t", arg, &unsafe, state);
		return 0;
	case ARGP_KEY_END:
		return finish(a, state);
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int rebase(struct cow_tool *tool, struct cow_error *err)
{
	struct arguments *a = (struct arguments *)tool;
	struct cow_disk_spec spec =
		cow_disk_options_spec(&tool->disks, tool->images[0], COW_DISK_QCOW2);
	a->rebase.image = &spec;
	a->rebase.nr_threads = cow_walk_threads();
	a->rebase.cancel = tool->cancel;
	a->rebase.progress = tool->progress;
	return cow_backing_rebase(cow_host_system(), tool->loop, &a->rebase, err);
}

int cow_cmd_rebase(int argc, char **argv)
{
	static const struct cow_tool_verb verb = {
		.options = options,
		.parse = parse_option,
		.args_doc = "-b BASE IMAGE\n--flatten IMAGE",
		.doc = "Give IMAGE another backing file, or none; where the two differ it takes "
		       "what the old one has, so that it shows what it did.\v"
		       "Whatever interrupts it, IMAGE shows the same, by its old backing file or "
		       "its new one.",
		.take = COW_ARGS_QUIET | COW_ARGS_FORMAT | COW_ARGS_PROGRESS | COW_ARGS_EMPTY_VALUE,
		.min_images = 1,
		.max_images = 1,
		.run = rebase,
	};
	struct arguments a = { 0 };
	cow_tool_parse(&verb, argc, argv, &a.tool);
	return cow_tool_run(&a.tool);
}
