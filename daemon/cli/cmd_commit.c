/* SPDX-License-Identifier: MIT */
/* cowblk commit: an image's content goes into its backing file. Options of `qemu-img commit`. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <errno.h>
#include <stdio.h>

#include "daemon/options/args.h"
#include "daemon/options/disk_options.h"
#include "daemon/options/interrupt.h"
#include "daemon/options/named.h"
#include "engine/tool/backing_commit.h"

struct arguments {
	struct cow_disk_options disks;
	struct cow_args common;
	struct cow_backing_commit commit;
	const char *image;
};

static const struct argp_option options[] = {
	{ "base", 'b', "BASE", 0,
	  "Into this file of the backing chain; what lies between is no use then, and IMAGE is not "
	  "emptied",
	  0 },
	{ "keep", 'd', NULL, 0, "Do not empty IMAGE: it is not needed any more", 0 },
	{ "target-cache", 't', "MODE", 0, "none, directsync: write past the page cache", 0 },
	{ "rate-limit", 'r', "RATE", OPTION_HIDDEN, NULL, 0 },
	{ 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	bool unsafe;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->disks;
		state->child_inputs[1] = &a->disks.secrets;
		return 0;
	case 'b':
		a->commit.base = arg;
		return 0;
	case 'd':
		a->commit.keep = true;
		return 0;
	case 't':
		a->disks.direct = cow_cache_mode_parse("-t", arg, &unsafe, state);
		return 0;
	case 'r':
		argp_error(state, "-r of qemu-img: not supported");
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num)
			return ARGP_ERR_UNKNOWN;
		a->image = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->image)
			argp_error(state, "IMAGE is missing");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int commit(struct arguments *a, struct cow_loop *loop, struct cow_error *err)
{
	struct cow_disk_spec spec = cow_disk_options_spec(&a->disks, a->image, COW_DISK_QCOW2);
	int ret = cow_secrets_load(&a->disks.secrets, a->image, false, err);
	if (ret)
		return ret;
	spec.open.nr_secrets = a->disks.secrets.nr;
	a->commit.image = &spec;
	a->commit.nr_threads = cow_walk_threads();
	a->commit.cancel = cow_interrupt_catch();
	a->commit.progress = cow_progress_to_terminal(a->common.progress, a->common.quiet);
	ret = cow_backing_commit(loop, &a->commit, err);
	cow_progress_finish();
	cow_secrets_free(&a->disks.secrets);
	return ret;
}

int cow_cmd_commit(int argc, char **argv)
{
	static const struct argp_child children[] = { { &cow_disk_argp, 0, NULL, 0 },
						      { &cow_secret_argp, 0, "Passphrase:", 0 },
						      { 0 } };
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "IMAGE",
		.doc = "Write what IMAGE holds into its backing file, and empty IMAGE. The backing "
		       "file grows if it is smaller.\v"
		       "Whatever interrupts it, IMAGE shows what it did.",
		.children = children,
	};
	struct arguments a = { 0 };
	struct cow_error err = { 0 };
	struct cow_loop *loop;
	cow_args_parse(&argp, COW_ARGS_QUIET | COW_ARGS_FORMAT | COW_ARGS_PROGRESS, argc, argv,
		       &a.common, &a);
	if (cow_loop_sync_new(&loop))
		return cow_cmd_fail("out of memory");
	int ret = commit(&a, loop, &err);
	cow_loop_free(loop);
	if (!ret && !a.common.quiet)
		puts("Image committed.");
	int status = ret && ret != -ECANCELED ? cow_named_fail(a.image, ret, &err) : !!ret;
	return ret == -ECANCELED ? cow_interrupt_end(status) : status;
}
