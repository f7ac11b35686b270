/* SPDX-License-Identifier: MIT */
/* cowblk bitmap: persistent dirty bitmaps, of an image that is closed or attached. */
#include "daemon/cli/commands.h"
#include "daemon/options/closed.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/options/args.h"
#include "daemon/client/ask_bitmap.h"
#include "daemon/options/named.h"
#include "daemon/control/show.h"
#include "daemon/control/target.h"
#include "engine/bitmap/bitmap.h"
#include "engine/host/system.h"
#include "engine/life/info.h"
#include "engine/loop/loop_plain.h"

#define RAW_BYTES 65536u

enum action { CHANGE, LIST, DUMP };

struct arguments {
	enum action action;
	bool has_action, raw;
	struct cow_args common;
	const char *image;
	struct cow_bitmap_change change;
	const char **sources;
};

/* ---- on a closed image ---- */

static int change(const void *ctx, struct cow_loop *loop, struct cow_file *file,
		  struct cow_error *err)
{
	const struct arguments *a = ctx;
	return cow_bitmap_run(loop, file, &a->change, err);
}

struct dump {
	const char *name;
	struct cow_dirty *to;
};

static int dump(const void *ctx, struct cow_loop *loop, struct cow_file *file,
		struct cow_error *err)
{
	const struct dump *d = ctx;
	return cow_bitmap_dump(loop, file, d->name, d->to, err);
}

/* ---- the actions: exit status ---- */

static int run_change(const struct arguments *a, bool live, struct cow_target target)
{
	return live ? cow_ask_bitmap_change(target, &a->change)
		    : cow_closed_run(a->image, COW_OPEN_WRITE, change, a);
}

static int load_list(const struct arguments *a, struct json_object **list)
{
	struct cow_error err = { 0 };
	struct cow_info info;
	struct cow_loop *loop;
	if (cow_loop_plain_new(&loop))
		return cow_cmd_fail("out of memory");
	int ret = cow_info_load(cow_host_system(), loop, a->image, &info, &err);
	cow_loop_free(loop);
	if (ret)
		return cow_cmd_fail("%s", err.text);
	*list = cow_show_bitmaps(info.bitmaps, info.bitmaps ? info.ext.nr_bitmaps : 0);
	cow_info_fini(&info);
	return 0;
}

static int run_list(const struct arguments *a, bool live, struct cow_target target)
{
	struct json_object *list;
	int status = live ? cow_ask_bitmap_list(target, &list) : load_list(a, &list);
	if (status)
		return status;
	if (a->common.json)
		puts(json_object_to_json_string_ext(list, JSON_C_TO_STRING_PRETTY |
								  JSON_C_TO_STRING_NOSLASHESCAPE));
	else
		cow_show_bitmaps_text(list);
	json_object_put(list);
	return 0;
}

static void print_raw(const struct cow_dirty *d)
{
	static uint8_t buf[RAW_BYTES];
	uint64_t bytes = cow_bitmap_data_bytes(d->size_bytes, d->granularity_bits);
	for (uint64_t at = 0; at < bytes; at += RAW_BYTES) {
		cow_dirty_store(d, at, buf, RAW_BYTES);
		fwrite(buf, 1, bytes - at < RAW_BYTES ? bytes - at : RAW_BYTES, stdout);
	}
}

/* Extents: as lines "OFFSET LENGTH", or as a JSON array. */
static void print_extents(const struct cow_dirty *d, bool json)
{
	uint64_t off = 0, bytes;
	const char *before = "";
	if (json)
		putchar('[');
	for (; cow_dirty_next(d, &off, &bytes); off += bytes) {
		if (json)
			printf("%s\n  { \"offset\": %" PRIu64 ", \"length\": %" PRIu64 " }", before,
			       off, bytes);
		else
			printf("%" PRIu64 " %" PRIu64 "\n", off, bytes);
		before = ",";
	}
	if (json)
		puts("\n]");
}

static int run_dump(const struct arguments *a, bool live, struct cow_target target)
{
	struct cow_dirty d = { 0 };
	const struct dump closed = { a->change.name, &d };
	int status = live ? cow_ask_bitmap_dump(target, a->change.name, &d)
			  : cow_closed_run(a->image, 0, dump, &closed);
	if (status)
		return status;
	if (a->raw)
		print_raw(&d);
	else
		print_extents(&d, a->common.json);
	cow_dirty_fini(&d);
	return 0;
}

/* ---- arguments ---- */

enum { KEY_DISABLED = 256, KEY_RAW };

static const struct argp_option options[] = {
	{ "granularity", 'g', "SIZE", 0,
	  "add: bytes that a bit stands for, a power of two from 512 to 2G (default 64K)", 0 },
	{ "disabled", KEY_DISABLED, NULL, 0, "add: record nothing until it is enabled", 0 },
	{ "raw", KEY_RAW, NULL, 0,
	  "dump: print the bits, the least significant bit of each byte first", 0 },
	{ 0 },
};

static void parse_action(struct arguments *a, const char *word, struct argp_state *state)
{
	int command = cow_bitmap_command_find(word);
	a->has_action = true;
	if (command >= 0)
		a->change.command = (enum cow_bitmap_command)command;
	else if (!strcmp(word, "list"))
		a->action = LIST;
	else if (!strcmp(word, "dump"))
		a->action = DUMP;
	else
		cow_args_no_action(state, word);
}

static error_t parse_word(struct arguments *a, char *word, struct argp_state *state)
{
	if (!a->has_action)
		parse_action(a, word, state);
	else if (!a->image)
		a->image = word;
	else if (!a->change.name && a->action != LIST)
		a->change.name = word;
	else if (a->action == CHANGE && a->change.command == COW_BITMAP_MERGE)
		a->sources[a->change.nr_sources++] = word;
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

static void parse_granularity(struct arguments *a, const char *text, struct argp_state *state)
{
	unsigned long long bytes;
	if (cow_cmd_parse_size(text, &bytes) || bytes < 512 || bytes > 1ull << 31 ||
	    (bytes & (bytes - 1)))
		argp_error(state, "--granularity %s: not a power of two from 512 to 2G", text);
	else
		a->change.granularity_bits = (unsigned)__builtin_ctzll(bytes);
}

static bool adds(const struct arguments *a)
{
	return a->action == CHANGE && a->change.command == COW_BITMAP_ADD;
}

static void check_arguments(const struct arguments *a, struct argp_state *state)
{
	if (!a->has_action)
		argp_error(state, "what to do is missing");
	else if (!a->image)
		argp_error(state, "IMAGE is missing");
	else if (a->action != LIST && !a->change.name)
		argp_error(state, "NAME is missing");
	else if (a->action == CHANGE && a->change.command == COW_BITMAP_MERGE &&
		 !a->change.nr_sources)
		argp_error(state, "SOURCE is missing");
	else if (a->common.json && a->raw)
		argp_error(state, "--json and --raw: take one");
	else if (a->action == CHANGE && (a->common.json || a->common.share))
		argp_error(state, "%s is for list and dump", a->common.json ? "--json" : "-U");
	else if (a->action != DUMP && a->raw)
		argp_error(state, "--raw is for dump");
	else if (!adds(a) && (a->change.granularity_bits || a->change.disabled))
		argp_error(state, "%s is for add",
			   a->change.disabled ? "--disabled" : "--granularity");
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	switch (key) {
	case 'g':
		parse_granularity(a, arg, state);
		return 0;
	case KEY_DISABLED:
		a->change.disabled = true;
		return 0;
	case KEY_RAW:
		a->raw = true;
		return 0;
	case ARGP_KEY_ARG:
		return parse_word(a, arg, state);
	case ARGP_KEY_END:
		check_arguments(a, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cow_cmd_bitmap(int argc, char **argv)
{
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "list IMAGE\nadd IMAGE NAME\nremove IMAGE BITMAP\nclear IMAGE "
			    "BITMAP\nenable IMAGE BITMAP\ndisable IMAGE BITMAP\n"
			    "merge IMAGE BITMAP SOURCE...\ndump IMAGE BITMAP",
		.doc = "Persistent dirty bitmaps of IMAGE, also while it is attached (IMAGE may be "
		       "the device then).\v"
		       "An enabled bitmap records which parts of the disk are written to, "
		       "discarded or zeroed. dump prints them, "
		       "a line \"OFFSET LENGTH\" in bytes for each extent: what an incremental "
		       "backup has to copy. merge adds "
		       "what the SOURCEs have recorded to BITMAP. After a crash a bitmap that was "
		       "recording is inconsistent, and "
		       "can only be removed. A crash leaves the image as it was before the command "
		       "or as it is after it.",
	};
	struct arguments a = { 0 };
	struct cow_target target = { 0 };
	a.sources = calloc((size_t)argc, sizeof(*a.sources));
	a.change.sources = a.sources;
	if (!a.sources)
		return cow_cmd_fail("out of memory");
	cow_args_parse(&argp, COW_ARGS_QUIET | COW_ARGS_OUTPUT | COW_ARGS_FORMAT | COW_ARGS_SHARE,
		       argc, argv, &a.common, &a);
	static int (*const run[])(const struct arguments *, bool, struct cow_target) = {
		[CHANGE] = run_change, [LIST] = run_list, [DUMP] = run_dump
	};
	bool ambiguous = cow_target_is_ambiguous(a.image);
	bool attached = !ambiguous && cow_target_writer(a.image, &target);
	int status =
		ambiguous ? cow_cmd_fail_ambiguous(a.image) : run[a.action](&a, attached, target);
	free(a.sources);
	return status;
}
