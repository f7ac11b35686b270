/* SPDX-License-Identifier: MIT */
#include "daemon/options/tool_cmd.h"

#include <errno.h>
#include <stdlib.h>

#include "daemon/options/cmd.h"
#include "daemon/options/interrupt.h"
#include "daemon/options/named.h"
#include "engine/host/system.h"
#include "engine/loop/loop.h"
#include "engine/loop/loop_plain.h"

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct cow_tool *tool = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &tool->disks;
		state->child_inputs[1] = &tool->disks.secrets;
		return 0;
	case ARGP_KEY_ARG:
		if (tool->verb->max_images && tool->nr_images == tool->verb->max_images)
			return tool->verb->parse(key, arg, state);
		tool->images[tool->nr_images++] = arg;
		return 0;
	case ARGP_KEY_END:
		if (tool->nr_images < tool->verb->min_images)
			argp_error(state, "IMAGE is missing");
		return tool->verb->parse(key, arg, state);
	default:
		return tool->verb->parse(key, arg, state);
	}
}

void cow_tool_parse(const struct cow_tool_verb *verb, int argc, char **argv, struct cow_tool *tool)
{
	static const struct argp_child children[] = { { &cow_disk_argp, 0, NULL, 0 },
						      { &cow_secret_argp, 0, "Passphrase:", 0 },
						      { 0 } };
	const struct argp argp = { .options = verb->options,
				   .parser = parse,
				   .args_doc = verb->args_doc,
				   .doc = verb->doc,
				   .children = children };
	tool->verb = verb;
	tool->common.values = verb->values;
	tool->images = calloc((size_t)argc + 2, sizeof(*tool->images));
	if (!tool->images)
		exit(cow_cmd_fail("out of memory"));
	cow_args_parse(&argp, verb->take, argc, argv, &tool->common, tool);
	tool->disks.share = tool->common.share;
	tool->failed_status = verb->failed_status ? verb->failed_status : 1;
	tool->failed_image = tool->images[0] ? tool->images[0] : argv[0];
}

int cow_tool_open(struct cow_tool *tool, unsigned image, enum cow_disk_format format,
		  const char *snapshot, struct cow_disk **disk, struct cow_error *err)
{
	struct cow_disk_spec spec =
		cow_disk_options_spec(&tool->disks, tool->images[image], format);
	spec.open.snapshot = snapshot;
	int ret = cow_disk_open(cow_host_system(), tool->loop, &spec, disk, err);
	if (ret)
		tool->failed_image = tool->images[image];
	return ret;
}

static int run(struct cow_tool *tool, struct cow_error *err)
{
	const struct cow_tool_verb *verb = tool->verb;
	int ret = cow_loop_plain_new(&tool->loop);
	if (ret)
		return cow_error_set(err, ret, "out of memory");
	if (tool->images[0]) /* else there is nothing to unlock */
		ret = cow_secrets_load(&tool->disks.secrets, tool->images[0], COW_PROMPT_ONCE, err);
	if (!ret && verb->prepare)
		ret = verb->prepare(tool, err);
	if (!ret) {
		tool->cancel = cow_interrupt_catch();
		tool->progress = cow_interrupt_progress(tool->common.progress, tool->common.quiet);
		ret = verb->run(tool, err);
		cow_interrupt_finish();
	}
	cow_secrets_free(&tool->disks.secrets);
	cow_loop_free(tool->loop);
	return ret;
}

int cow_tool_run(struct cow_tool *tool)
{
	struct cow_error err = { 0 };
	int ret = run(tool, &err), status;
	if (!ret) {
		status = tool->verb->tell ? tool->verb->tell(tool) : 0;
	} else {
		status = ret == -ECANCELED ? cow_interrupt_end(0) : 0;
		if (!status)
			COW_IGNORE(cow_named_fail(tool->failed_image, ret, &err));
		status = status ? status : tool->failed_status;
	}
	free(tool->images);
	return status;
}
