/* SPDX-License-Identifier: MIT */
/* cowblk compare: do two disks hold the same? Words and statuses of `qemu-img compare`. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "daemon/options/args.h"
#include "daemon/options/disk_options.h"
#include "daemon/options/interrupt.h"
#include "daemon/options/named.h"
#include "daemon/control/show.h"
#include "engine/crypt/secret.h"
#include "engine/tool/compare.h"

enum exit_code {
	EXIT_SAME = 0,
	EXIT_DIFFERENT = 1,
	EXIT_NOT_OPENED = 2,
	EXIT_NO_MAP = 3,
	EXIT_NOT_READ = 4,
};

struct arguments {
	struct cow_disk_options disks;
	struct cow_args common;
	const char *images[2];
	enum cow_disk_format formats[2];
	bool strict;
};

static const struct argp_option options[] = {
	{ "format", 'f', "FORMAT", 0, "Format of IMAGE1: qcow2 (default) or raw", 0 },
	{ "other-format", 'F', "FORMAT", 0, "Format of IMAGE2", 0 },
	{ "strict", 's', NULL, 0,
	  "Sizes must be equal too, and what is stored rather than only reads as zeros", 0 },
	{ 0 },
};

static error_t parse_image(struct arguments *a, const char *arg)
{
	for (int i = 0; i < 2; i++) {
		if (a->images[i])
			continue;
		a->images[i] = arg;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->disks;
		state->child_inputs[1] = &a->disks.secrets;
		return 0;
	case 'f':
		a->formats[0] = cow_disk_format_parse("-f", arg, state);
		return 0;
	case 'F':
		a->formats[1] = cow_disk_format_parse("-F", arg, state);
		return 0;
	case 's':
		a->strict = true;
		return 0;
	case ARGP_KEY_ARG:
		return parse_image(a, arg);
	case ARGP_KEY_END:
		if (!a->images[1])
			argp_error(state, "two images are needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- output ---- */

static bool sizes_differ(const struct cow_compare *c)
{
	return cow_disk_bytes(c->disks[0]) != cow_disk_bytes(c->disks[1]);
}

static uint64_t common_bytes(const struct cow_compare *c)
{
	uint64_t a = cow_disk_bytes(c->disks[0]), b = cow_disk_bytes(c->disks[1]);
	return a < b ? a : b;
}

static void print_text(const struct cow_compare *c)
{
	bool same = c->verdict == COW_COMPARE_SAME;
	if (c->verdict == COW_COMPARE_SIZE)
		puts("Strict mode: Image size mismatch!");
	if (c->verdict == COW_COMPARE_STATUS)
		printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n", c->offset);
	if (c->verdict > COW_COMPARE_CONTENT)
		return;
	if (sizes_differ(c) && (same || c->offset >= common_bytes(c)))
		puts("Warning: Image size mismatch!");
	if (same)
		puts("Images are identical.");
	else
		printf("Content mismatch at offset %" PRIu64 "!\n", c->offset);
}

static void print_json(const struct cow_compare *c)
{
	static const char *const reasons[] = {
		[COW_COMPARE_CONTENT] = "content",
		[COW_COMPARE_STATUS] = "status",
		[COW_COMPARE_SIZE] = "size",
	};
	struct json_object *o = json_object_new_object();
	bool same = c->verdict == COW_COMPARE_SAME;
	json_object_object_add(o, "identical", json_object_new_boolean(same));
	json_object_object_add(o, "size-mismatch", json_object_new_boolean(sizes_differ(c)));
	if (!same)
		cow_show_string(o, "difference", reasons[c->verdict]);
	if (!same && c->verdict != COW_COMPARE_SIZE)
		cow_show_u64(o, "offset", c->offset);
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY));
	json_object_put(o);
}

static int say_failure(const struct cow_compare *c, int ret)
{
	if (ret == -ECANCELED || c->failed < 0) {
		cow_cmd_fail("compare: %s", ret == -ECANCELED ? "interrupted" : strerror(-ret));
		return EXIT_NOT_READ;
	}
	cow_cmd_fail("%s: cannot read %s offset %" PRIu64 ": %s",
		     cow_disk_path(c->disks[c->failed]), c->failed_map ? "the mapping of" : "at",
		     c->failed_off, strerror(-ret));
	return c->failed_map ? EXIT_NO_MAP : EXIT_NOT_READ;
}

/* ---- the command ---- */

static int compare(struct arguments *a, struct cow_compare *c)
{
	c->strict = a->strict;
	c->cancel = cow_interrupt_catch();
	c->progress = cow_progress_to_terminal(a->common.progress, a->common.quiet);
	int ret = cow_compare(c);
	cow_progress_finish();
	if (ret)
		return say_failure(c, ret);
	if (a->common.json)
		print_json(c);
	else if (!a->common.quiet)
		print_text(c);
	return c->verdict == COW_COMPARE_SAME ? EXIT_SAME : EXIT_DIFFERENT;
}

static int open_both(struct arguments *a, struct cow_loop *loop, struct cow_disk *disks[2])
{
	struct cow_error err = { 0 };
	int ret = cow_secrets_load(&a->disks.secrets, a->images[0], false, &err);
	if (ret) {
		cow_named_fail(a->images[0], ret, &err);
		return ret;
	}
	for (int i = 0; i < 2 && !ret; i++) {
		struct cow_disk_spec spec =
			cow_disk_options_spec(&a->disks, a->images[i], a->formats[i]);
		ret = cow_disk_open(loop, &spec, &disks[i], &err);
		if (ret)
			cow_named_fail(a->images[i], ret, &err);
	}
	cow_secrets_free(&a->disks.secrets);
	return ret;
}

int cow_cmd_compare(int argc, char **argv)
{
	static const struct argp_child children[] = { { &cow_disk_argp, 0, NULL, 0 },
						      { &cow_secret_argp, 0, "Passphrase:", 0 },
						      { 0 } };
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "IMAGE1 IMAGE2",
		.doc = "Compare what two disks hold, through their backing chains. If one is "
		       "longer, the rest of it must read as zeros.\v"
		       "Status: 0 the same, 1 different, 2 an image cannot be opened, 3 its "
		       "mapping cannot be read, 4 its content cannot be read.",
		.children = children,
	};
	struct arguments a = { 0 };
	struct cow_compare c = { 0 };
	struct cow_loop *loop;
	cow_args_parse(&argp, COW_ARGS_QUIET | COW_ARGS_OUTPUT | COW_ARGS_SHARE | COW_ARGS_PROGRESS,
		       argc, argv, &a.common, &a);
	a.disks.share = a.common.share;
	if (cow_loop_sync_new(&loop)) {
		cow_cmd_fail("out of memory");
		return EXIT_NOT_OPENED;
	}
	int status = EXIT_NOT_OPENED;
	if (!open_both(&a, loop, c.disks))
		status = compare(&a, &c);
	for (int i = 0; i < 2; i++)
		COW_IGNORE(cow_disk_close(c.disks[i], loop, NULL));
	cow_loop_free(loop);
	return cow_interrupt_end(status);
}
