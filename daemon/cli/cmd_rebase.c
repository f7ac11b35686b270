/* SPDX-License-Identifier: MIT */
/* cowblk rebase: an image gets another backing file. Options of `qemu-img rebase`. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <errno.h>
#include <string.h>

#include "daemon/options/args.h"
#include "daemon/options/disk_options.h"
#include "daemon/options/interrupt.h"
#include "daemon/options/named.h"
#include "engine/tool/backing_rebase.h"

struct arguments {
	struct cow_disk_options disks;
	struct cow_args common;
	struct cow_backing_rebase rebase;
	const char *image;
	bool has_base;
};

static const struct argp_option options[] = {
	{ "base", 'b', "BASE", 0,
	  "The new backing file, relative to IMAGE's directory; -b \"\" or --flatten: none", 0 },
	{ "flatten", 'n', NULL, 0, "No backing file any more: IMAGE takes all that it shows", 0 },
	{ "backing-format", 'F', "FORMAT", 0, "Format of BASE: qcow2 or raw", 0 },
	{ "unsafe", 'u', NULL, 0,
	  "Only change the name: neither backing file is looked at, IMAGE may show something else",
	  0 },
	{ "target-cache", 't', "MODE", 0, "none, directsync: write past the page cache", 0 },
	{ 0 },
};

static error_t finish(struct arguments *a, struct argp_state *state)
{
	if (!a->image)
		argp_error(state, "IMAGE is missing");
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
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->disks;
		state->child_inputs[1] = &a->disks.secrets;
		return 0;
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
	case 't':
		a->disks.direct = cow_cache_mode_parse("-t", arg, &unsafe, state);
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num)
			return ARGP_ERR_UNKNOWN;
		a->image = arg;
		return 0;
	case ARGP_KEY_END:
		return finish(a, state);
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int rebase(struct arguments *a, struct cow_loop *loop, struct cow_error *err)
{
	struct cow_disk_spec spec = cow_disk_options_spec(&a->disks, a->image, COW_DISK_QCOW2);
	int ret = cow_secrets_load(&a->disks.secrets, a->image, false, err);
	if (ret)
		return ret;
	a->rebase.image = &spec;
	a->rebase.nr_threads = cow_walk_threads();
	a->rebase.cancel = cow_interrupt_catch();
	a->rebase.progress = cow_progress_to_terminal(a->common.progress, a->common.quiet);
	ret = cow_backing_rebase(loop, &a->rebase, err);
	cow_progress_finish();
	cow_secrets_free(&a->disks.secrets);
	return ret;
}

int cow_cmd_rebase(int argc, char **argv)
{
	static const struct argp_child children[] = { { &cow_disk_argp, 0, NULL, 0 },
						      { &cow_secret_argp, 0, "Passphrase:", 0 },
						      { 0 } };
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "IMAGE",
		.doc = "Give IMAGE another backing file, or none; where the two differ it takes "
		       "what the old one has, so that it shows what it did.\v"
		       "Whatever interrupts it, IMAGE shows the same, by its old backing file or "
		       "its new one.",
		.children = children,
	};
	struct arguments a = { 0 };
	struct cow_error err = { 0 };
	struct cow_loop *loop;
	cow_args_parse(&argp,
		       COW_ARGS_QUIET | COW_ARGS_FORMAT | COW_ARGS_PROGRESS | COW_ARGS_EMPTY_VALUE,
		       argc, argv, &a.common, &a);
	if (cow_loop_sync_new(&loop))
		return cow_cmd_fail("out of memory");
	int ret = rebase(&a, loop, &err);
	cow_loop_free(loop);
	int status = ret && ret != -ECANCELED ? cow_named_fail(a.image, ret, &err) : !!ret;
	return ret == -ECANCELED ? cow_interrupt_end(status) : status;
}
