/* SPDX-License-Identifier: MIT */
/* cowblk compare: do two disks hold the same? Words and statuses of `qemu-img compare`. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "daemon/options/tool_cmd.h"
#include "daemon/control/show.h"
#include "engine/tool/compare.h"

enum exit_code {
	EXIT_SAME = 0,
	EXIT_DIFFERENT = 1,
	EXIT_NOT_OPENED = 2,
	EXIT_NO_MAP = 3,
	EXIT_NOT_READ = 4,
};

struct arguments {
	struct cow_tool tool; /* first */
	enum cow_disk_format formats[2];
	struct cow_compare compare;
	uint64_t bytes[2]; /* of the disks */
};

static const struct argp_option options[] = {
	{ "format", 'f', "qcow2|raw", 0, "Format of IMAGE1: qcow2 (default) or raw", 0 },
	{ "other-format", 'F', "qcow2|raw", 0, "Format of IMAGE2", 0 },
	{ "strict", 's', NULL, 0,
	  "Sizes must be equal too, and what is stored rather than only reads as zeros", 0 },
	{ 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	switch (key) {
	case 'f':
		a->formats[0] = cow_disk_format_parse("-f", arg, state);
		return 0;
	case 'F':
		a->formats[1] = cow_disk_format_parse("-F", arg, state);
		return 0;
	case 's':
		a->compare.strict = true;
		return 0;
	case ARGP_KEY_END:
		if (a->tool.nr_images < 2)
			argp_error(state, "two images are needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- output ---- */

static void print_text(const struct arguments *a)
{
	const struct cow_compare *c = &a->compare;
	bool same = c->result.verdict == COW_COMPARE_SAME;
	uint64_t shorter = a->bytes[0] < a->bytes[1] ? a->bytes[0] : a->bytes[1];
	if (c->result.verdict == COW_COMPARE_SIZE)
		puts("Strict mode: Image size mismatch!");
	if (c->result.verdict == COW_COMPARE_STATUS)
		printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n",
		       c->result.offset);
	if (c->result.verdict > COW_COMPARE_CONTENT)
		return;
	if (a->bytes[0] != a->bytes[1] && (same || c->result.offset >= shorter))
		puts("Warning: Image size mismatch!");
	if (same)
		puts("Images are identical.");
	else
		printf("Content mismatch at offset %" PRIu64 "!\n", c->result.offset);
}

static void print_json(const struct arguments *a)
{
	static const char *const reasons[] = {
		[COW_COMPARE_CONTENT] = "content",
		[COW_COMPARE_STATUS] = "status",
		[COW_COMPARE_SIZE] = "size",
	};
	const struct cow_compare *c = &a->compare;
	struct json_object *o = json_object_new_object();
	bool same = c->result.verdict == COW_COMPARE_SAME;
	json_object_object_add(o, "identical", json_object_new_boolean(same));
	json_object_object_add(o, "size-mismatch",
			       json_object_new_boolean(a->bytes[0] != a->bytes[1]));
	if (!same)
		cow_show_string(o, "difference", reasons[c->result.verdict]);
	if (!same && c->result.verdict != COW_COMPARE_SIZE)
		cow_show_u64(o, "offset", c->result.offset);
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY));
	json_object_put(o);
}

static int tell(const struct cow_tool *tool)
{
	const struct arguments *a = (const struct arguments *)tool;
	if (tool->common.json)
		print_json(a);
	else if (!tool->common.quiet)
		print_text(a);
	return a->compare.result.verdict == COW_COMPARE_SAME ? EXIT_SAME : EXIT_DIFFERENT;
}

static int say_failure(struct arguments *a, int ret, struct cow_error *err)
{
	const struct cow_compare *c = &a->compare;
	a->tool.failed_status =
		c->result.failed >= 0 && c->result.failed_map ? EXIT_NO_MAP : EXIT_NOT_READ;
	if (c->result.failed < 0)
		return cow_error_set(err, ret, "compare: %s", strerror(-ret));
	return cow_error_set(err, ret, "%s: cannot read %s offset %" PRIu64 ": %s",
			     cow_disk_path(c->disks[c->result.failed]),
			     c->result.failed_map ? "the mapping of" : "at", c->result.failed_off,
			     strerror(-ret));
}

/* ---- the command ---- */

static int compare(struct cow_tool *tool, struct cow_error *err)
{
	struct arguments *a = (struct arguments *)tool;
	struct cow_compare *c = &a->compare;
	int ret = 0;
	c->cancel = tool->cancel;
	c->progress = tool->progress;
	for (unsigned i = 0; i < 2 && !ret; i++) {
		ret = cow_tool_open(tool, i, a->formats[i], NULL, &c->disks[i], err);
		a->bytes[i] = ret ? 0 : cow_disk_bytes(c->disks[i]);
	}
	cow_secrets_free(&tool->disks.secrets);
	if (!ret) {
		ret = cow_compare(c);
		if (ret)
			say_failure(a, ret, err);
	}
	for (unsigned i = 0; i < 2; i++)
		COW_IGNORE(cow_disk_close(c->disks[i], tool->loop, NULL));
	return ret;
}

int cow_cmd_compare(int argc, char **argv)
{
	static const struct cow_tool_verb verb = {
		.options = options,
		.parse = parse_option,
		.args_doc = "IMAGE1 IMAGE2",
		.doc = "Compare what two disks hold, through their backing chains. If one is "
		       "longer, the rest of it must read as zeros.\v"
		       "Status: 0 the same, 1 different, 2 an image cannot be opened, 3 its "
		       "mapping cannot be read, 4 its content cannot be read.",
		.take = COW_ARGS_QUIET | COW_ARGS_OUTPUT | COW_ARGS_SHARE | COW_ARGS_PROGRESS,
		.max_images = 2,
		.failed_status = EXIT_NOT_OPENED,
		.run = compare,
		.tell = tell,
	};
	struct arguments a = { 0 };
	cow_tool_parse(&verb, argc, argv, &a.tool);
	return cow_tool_run(&a.tool);
}
