/* SPDX-License-Identifier: MIT */
/* cowblk commit: an image's content goes into its backing file. Options of `qemu-img commit`. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <stdio.h>

#include "daemon/options/tool_cmd.h"
#include "engine/host/system.h"
#include "engine/tool/backing_commit.h"

struct arguments {
	struct cow_tool tool; /* first */
	struct cow_backing_commit commit;
	uint64_t rate;
};

enum { KEY_DATA_ROOT = 256 };

static const struct argp_option options[] = {
	{ "base", 'b', "BASE", 0,
	  "Into this file of the backing chain; what lies between is no use then, and IMAGE is not "
	  "emptied",
	  0 },
	{ "keep", 'd', NULL, 0, "Do not empty IMAGE: it is not needed any more", 0 },
	{ "target-cache", 't', COW_CACHE_MODES, 0, "none, directsync: write past the page cache",
	  0 },
	COW_DISK_DATA_ROOT_OPTION(KEY_DATA_ROOT),
	{ "rate-limit", 'r', "RATE", 0, "Write so many bytes a second at most", 0 },
	{ 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	bool unsafe;
	switch (key) {
	case 'b':
		a->commit.base = arg;
		return 0;
	case 'd':
		a->commit.keep = true;
		return 0;
	case KEY_DATA_ROOT:
		cow_disk_add_data_root(&a->tool.disks, arg, state);
		return 0;
	case 't':
		a->tool.disks.direct = cow_disk_cache_parse("-t", arg, &unsafe, state);
		return 0;
	case 'r':
		a->rate = cow_disk_rate_parse("-r", arg, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int commit(struct cow_tool *tool, struct cow_error *err)
{
	struct arguments *a = (struct arguments *)tool;
	struct cow_disk_spec spec =
		cow_disk_options_spec(&tool->disks, tool->images[0], COW_DISK_QCOW2);
	a->commit.image = &spec;
	a->commit.nr_threads = cow_walk_threads();
	a->commit.cancel = tool->cancel;
	a->commit.progress = tool->progress;
	struct cow_rate rate;
	cow_rate_init(&rate, a->rate, tool->cancel);
	a->commit.rate = a->rate ? &rate : NULL;
	int ret = cow_backing_commit(cow_host_system(), tool->loop, &a->commit, err);
	cow_rate_fini(&rate);
	return ret;
}

static int tell(const struct cow_tool *tool)
{
	if (!tool->common.quiet)
		puts("Image committed.");
	return 0;
}

int cow_cmd_commit(int argc, char **argv)
{
	static const struct cow_tool_verb verb = {
		.options = options,
		.parse = parse_option,
		.args_doc = "IMAGE",
		.doc = "Write what IMAGE holds into its backing file, and empty IMAGE. The backing "
		       "file grows if it is smaller.\v"
		       "Whatever interrupts it, IMAGE shows what it did.",
		.take = COW_ARGS_QUIET | COW_ARGS_FORMAT | COW_ARGS_PROGRESS,
		.min_images = 1,
		.max_images = 1,
		.run = commit,
		.tell = tell,
	};
	struct arguments a = { 0 };
	cow_tool_parse(&verb, argc, argv, &a.tool);
	return cow_tool_run(&a.tool);
}
