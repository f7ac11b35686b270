/* SPDX-License-Identifier: MIT */
/* cowblk check: consistency check and repair; names and exit codes of `qemu-img check`. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/options/args.h"
#include "daemon/options/named.h"
#include "daemon/control/show.h"
#include "engine/check/check.h"
#include "engine/host/system.h"
#include "engine/loop/loop_plain.h"

enum exit_code {
	EXIT_CLEAN = 0,
	EXIT_NOT_CHECKED = 1,
	EXIT_CORRUPT = 2,
	EXIT_LEAKS = 3,
	EXIT_NOT_SUPPORTED = 63,
};

struct arguments {
	const char *image;
	enum cow_repair repair;
	struct cow_args common;
};

static const struct argp_option options[] = {
	{ "repair", 'r', "leaks|all", 0, "Repair leaks only, or everything", 0 },
	{ 0 },
};

static error_t parse_repair(struct arguments *a, const char *arg, struct argp_state *state)
{
	if (!strcmp(arg, "leaks"))
		a->repair = COW_REPAIR_LEAKS;
	else if (!strcmp(arg, "all"))
		a->repair = COW_REPAIR_ALL;
	else
		argp_error(state, "--repair %s: must be leaks or all", arg);
	return 0;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	if (key == 'r')
		return parse_repair(a, arg, state);
	return cow_args_one_image(key, arg, state, &a->image);
}

/* ---- output ---- */

/*
 * Findings go where results go, except with --json. Text from the image is shown as printable
 * ASCII.
 */
static void print_finding(void *ctx, const char *text)
{
	const struct arguments *a = ctx;
	if (a->common.quiet)
		return;
	FILE *out = a->common.json ? stderr : stdout;
	for (const char *p = text; *p; p++)
		fputc(*p >= 0x20 && *p < 0x7f ? *p : '?', out);
	fputc('\n', out);
}

static void print_progress(void *ctx, unsigned permille)
{
	static unsigned last = 1001;
	(void)ctx;
	if (permille == last)
		return;
	last = permille;
	if (permille == 1000)
		fputs("\r        \r", stderr);
	else
		fprintf(stderr, "\r%3u.%u %%", permille / 10, permille % 10);
}

static void put_nonzero(struct json_object *o, const char *key, uint64_t value)
{
	if (value)
		json_object_object_add(o, key, json_object_new_uint64(value));
}

static void print_json(const char *image, const struct cow_check_result *r)
{
	struct json_object *o = json_object_new_object();
	put_nonzero(o, "image-end-offset", r->image_end_offset);
	put_nonzero(o, "total-clusters", r->total_clusters);
	json_object_object_add(o, "check-errors", json_object_new_uint64(r->check_errors));
	put_nonzero(o, "corruptions", r->corruptions);
	put_nonzero(o, "leaks", r->leaks);
	put_nonzero(o, "corruptions-fixed", r->corruptions_fixed);
	put_nonzero(o, "leaks-fixed", r->leaks_fixed);
	put_nonzero(o, "allocated-clusters", r->allocated_clusters);
	put_nonzero(o, "fragmented-clusters", r->fragmented_clusters);
	put_nonzero(o, "compressed-clusters", r->compressed_clusters);
	cow_show_string(o, "filename", image);
	json_object_object_add(o, "format", json_object_new_string("qcow2"));
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
						       JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}

static void print_text(const struct cow_check_result *r)
{
	if (r->corruptions_fixed || r->leaks_fixed)
		printf("Repaired: %" PRIu64 " corruptions, %" PRIu64 " leaks.\n",
		       r->corruptions_fixed, r->leaks_fixed);
	if (r->corruptions)
		printf("%" PRIu64 " errors were found on the image: data may be corrupted, do not "
		       "write to it.\n",
		       r->corruptions);
	if (r->leaks)
		printf("%" PRIu64
		       " leaked clusters were found: space is wasted, no data is in danger.\n",
		       r->leaks);
	if (!r->corruptions && !r->leaks)
		printf("No errors were found on the image.\n");
	if (r->total_clusters && r->allocated_clusters)
		printf("%" PRIu64 "/%" PRIu64
		       " = %.2f%% allocated, %.2f%% fragmented, %.2f%% compressed clusters\n",
		       r->allocated_clusters, r->total_clusters,
		       100.0 * (double)r->allocated_clusters / (double)r->total_clusters,
		       100.0 * (double)r->fragmented_clusters / (double)r->allocated_clusters,
		       100.0 * (double)r->compressed_clusters / (double)r->allocated_clusters);
	if (r->image_end_offset)
		printf("Image end offset: %" PRIu64 "\n", r->image_end_offset);
}

/* ---- running ---- */

static int exit_code(int ret, const struct cow_check_result *r)
{
	if (ret == -ENOTSUP)
		return EXIT_NOT_SUPPORTED;
	if (ret || r->check_errors)
		return EXIT_NOT_CHECKED;
	return r->corruptions ? EXIT_CORRUPT : r->leaks ? EXIT_LEAKS : EXIT_CLEAN;
}

static int check_file(const struct arguments *a, struct cow_loop *loop,
		      struct cow_check_result *result, struct cow_error *err)
{
	struct cow_host *host = cow_host_system();
	struct cow_file *file;
	struct cow_check_options check = {
		.repair = a->repair,
		.finding = print_finding,
		.progress = !a->common.quiet && (a->common.progress || isatty(STDERR_FILENO))
				    ? print_progress
				    : NULL,
		.ctx = (void *)(uintptr_t)a,
	};
	unsigned flags = COW_OPEN_BUFFERED | (a->repair == COW_REPAIR_NONE ? 0 : COW_OPEN_WRITE);
	int ret = host->ops->open(host, a->image, flags, &file, err);
	if (ret)
		return ret == -ENOTSUP ? -EINVAL : ret;
	ret = cow_check_file(loop, file, &check, result, err);
	if (ret)
		cow_error_prefix(err, "%s", a->image);
	host->ops->close(file);
	return ret;
}

int cow_cmd_check(int argc, char **argv)
{
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "IMAGE|DEVICE",
		.doc = "Check IMAGE, which must not be in use.\vExit status: 0 clean, 1 could not "
		       "be checked (or a wrong command line), 2 corrupt, "
		       "3 leaks only, 63 not a format that can be checked. With --repair: what is "
		       "left afterwards.",
	};
	struct arguments a = { 0 };
	struct cow_error err = { 0 };
	struct cow_check_result result = { 0 };
	struct cow_loop *loop;
	cow_args_parse(&argp,
		       COW_ARGS_OWN_STATUS_2 | COW_ARGS_QUIET | COW_ARGS_OUTPUT | COW_ARGS_FORMAT |
			       COW_ARGS_PROGRESS,
		       argc, argv, &a.common, &a);
	char *image = cow_named_path(a.image);
	if (!image)
		return EXIT_NOT_CHECKED;
	a.image = image;
	if (cow_loop_plain_new(&loop)) {
		free(image);
		return cow_cmd_fail("out of memory");
	}
	int ret = check_file(&a, loop, &result, &err);
	cow_loop_free(loop);
	if (ret)
		cow_named_fail(image, ret, &err);
	else if (a.common.json)
		print_json(image, &result);
	else if (!a.common.quiet)
		print_text(&result);
	free(image);
	return exit_code(ret, &result);
}
