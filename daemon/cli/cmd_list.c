/* SPDX-License-Identifier: MIT */
/* cowblk list: what is attached, asking each daemon. */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/options/args.h"
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"
#include "daemon/client/leftover.h"
#include "daemon/client/list_requests.h"
#include "daemon/control/record.h"
#include "daemon/control/show.h"
#include "daemon/control/survey.h"
#include "daemon/control/target.h"

#define STATUS_TIMEOUT_MS 2000

struct arguments {
	bool requests;
	const char *target;
};

enum { KEY_REQUESTS = 256 };

static const struct argp_option options[] = {
	{ "requests", KEY_REQUESTS, NULL, 0,
	  "List the requests in flight instead, oldest first: what each is at and waits for", 0 },
	{ 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	switch (key) {
	case KEY_REQUESTS:
		a->requests = true;
		return 0;
	case ARGP_KEY_ARG:
		if (a->target)
			argp_error(state, "one DEVICE or IMAGE, please");
		a->target = arg;
		return 0;
	case ARGP_KEY_END:
		if (a->target && !a->requests)
			argp_error(state, "a DEVICE or IMAGE goes with --requests");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse_option,
	.args_doc = "\n--requests [DEVICE|IMAGE]",
	.doc = "List attached images.\vStates: live; failed (the image takes no more writes); "
	       "detaching; does not answer (the daemon is stuck: `cowblk detach --force`; "
	       "\"unresponsive\" in JSON); dead (the daemon is gone: `cowblk detach` cleans "
	       "up); running (ask as root to know more).",
};

/* What a daemon's silence means. */
static const char *state_of(int error)
{
	switch (error) {
	case -ECONNREFUSED:
	case -ENOENT:
		return "dead";
	case -EACCES:
	case -EPERM:
		return "running";
	default:
		return "unresponsive";
	}
}

/* The daemon's own word, or what is known without it; NULL: detached this very moment. */
static struct json_object *describe(struct cow_survey *s)
{
	struct cow_record record;
	struct json_object *o = s->reply;
	if (o)
		json_object_object_del(o, "ok");
	if (cow_record_read(s->id, &record))
		return o;
	if (!o) {
		o = cow_record_to_json(&record);
		json_object_object_add(o, "state", json_object_new_string(state_of(s->error)));
	}
	json_object_object_add(o, "moved", json_object_new_boolean(cow_target_has_moved(&record)));
	cow_record_fini(&record);
	return o;
}

static const char *text_of(struct json_object *o, const char *key)
{
	struct json_object *v;
	return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : "-";
}

/* What is to be seen through it. */
static void format_mode(struct json_object *o, char *text, size_t len)
{
	struct json_object *v;
	if (json_object_object_get_ex(o, "snapshot", &v))
		snprintf(text, len, "snapshot %s", json_object_get_string(v));
	else if (json_object_object_get_ex(o, "temporary", &v) && json_object_get_boolean(v))
		snprintf(text, len, "temporary");
	else
		snprintf(text, len, "%s",
			 json_object_object_get_ex(o, "read-only", &v) && json_object_get_boolean(v)
				 ? "read-only"
				 : "writable");
	size_t n = strlen(text);
	if (json_object_object_get_ex(o, "moved", &v) && json_object_get_boolean(v))
		snprintf(text + n, len - n, ", renamed or deleted");
}

static void format_size(uint64_t bytes, char *text, size_t len)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned unit = 0;
	double v = (double)bytes;
	for (; v >= 1024 && unit < 6; unit++)
		v /= 1024;
	snprintf(text, len, "%.3g %s", v, units[unit]);
}

static void format_state(struct json_object *o, char *text, size_t len)
{
	const char *state = text_of(o, "state");
	if (strcmp(state, "unresponsive"))
		snprintf(text, len, "%s", state);
	else
		snprintf(text, len, "does not answer (pid %s)", text_of(o, "pid"));
}

static uint64_t sum_of(struct json_object *counts)
{
	uint64_t sum = 0;
	json_object_object_foreach(counts, key, count)
	{
		(void)key;
		sum += json_object_get_uint64(count);
	}
	return sum;
}

/* "; 7 I/O errors (last: read at offset 4096: Input/output error)", or nothing. */
static void add_errors(FILE *out, struct json_object *o)
{
	struct json_object *counts, *last;
	/* Missing where the daemon did not answer, null while it closes the image. */
	if (!json_object_object_get_ex(o, "errors", &counts) || !counts ||
	    !json_object_object_get_ex(o, "last-error", &last) || !last)
		return;
	uint64_t nr = sum_of(counts);
	fprintf(out, "; %" PRIu64 " I/O error%s (last: %s", nr, nr == 1 ? "" : "s",
		text_of(last, "kind"));
	if (strcmp(text_of(last, "kind"), "flush"))
		fprintf(out, " at offset %s", text_of(last, "offset"));
	fprintf(out, ": %s)", text_of(last, "error"));
}

/* The mode, and what the host has refused. malloc'ed. */
static char *describe_mode(struct json_object *o)
{
	char mode[300], *text = NULL;
	size_t len;
	struct json_object *note;
	FILE *out = open_memstream(&text, &len);
	if (!out)
		abort();
	format_mode(o, mode, sizeof(mode));
	fputs(mode, out);
	add_errors(out, o);
	if (json_object_object_get_ex(o, "discard-note", &note))
		fprintf(out, "; %s", json_object_get_string(note));
	if (fclose(out))
		abort();
	char *clean = cow_show_clean(text);
	free(text);
	return clean;
}

/* state_width: the column is as wide as the longest of all rows. */
static void print_row(struct json_object *o, int state_width)
{
	char size[32], state[64];
	struct json_object *v;
	format_size(json_object_object_get_ex(o, "size", &v) ? json_object_get_uint64(v) : 0, size,
		    sizeof(size));
	format_state(o, state, sizeof(state));
	char *image = cow_show_clean(text_of(o, "image")), *mode = describe_mode(o);
	printf("%-14s %-32s %10s %-*s %6s %7s  %s\n", text_of(o, "device"), image, size,
	       state_width, state, text_of(o, "queues"), text_of(o, "pid"), mode);
	free(image);
	free(mode);
}

static void print_table(struct json_object *all)
{
	int width = 8;
	size_t nr = json_object_array_length(all);
	for (size_t i = 0; i < nr; i++) {
		char state[64];
		format_state(json_object_array_get_idx(all, i), state, sizeof(state));
		width = (int)strlen(state) > width ? (int)strlen(state) : width;
	}
	printf("%-14s %-32s %10s %-*s %6s %7s  %s\n", "DEVICE", "IMAGE", "SIZE", width, "STATE",
	       "QUEUES", "PID", "MODE");
	for (size_t i = 0; i < nr; i++)
		print_row(json_object_array_get_idx(all, i), width);
}

static void survey(struct json_object *all, const uint32_t *ids, unsigned nr)
{
	struct cow_survey *surveys = calloc(nr + 1, sizeof(*surveys));
	if (!surveys)
		abort();
	for (unsigned i = 0; i < nr; i++)
		surveys[i].id = ids[i];
	cow_survey_run(surveys, nr, STATUS_TIMEOUT_MS);
	for (unsigned i = 0; i < nr; i++) {
		struct json_object *o = describe(&surveys[i]);
		if (o)
			json_object_array_add(all, o);
	}
	free(surveys);
}

/* Nothing else is known of them. */
static void add_leftovers(struct json_object *all)
{
	static uint32_t ids[COW_MAX_DEVICES];
	int nr = cow_leftover_find(ids, COW_MAX_DEVICES);
	for (int i = 0; i < nr; i++) {
		struct json_object *o = json_object_new_object();
		char device[24];
		snprintf(device, sizeof(device), "/dev/ublkb%u", ids[i]);
		json_object_object_add(o, "device", json_object_new_string(device));
		json_object_object_add(o, "id", json_object_new_int64(ids[i]));
		json_object_object_add(o, "state", json_object_new_string("dead"));
		json_object_array_add(all, o);
	}
}

/* Names of files are bytes; JSON is UTF-8. */
static void escape_names(struct json_object *all)
{
	static const char *const keys[] = { "image", "snapshot" };
	struct json_object *v;
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++) {
			if (!json_object_object_get_ex(o, keys[k], &v))
				continue;
			char *name = strdup(json_object_get_string(v));
			if (name)
				cow_show_string(o, keys[k], name);
			free(name);
		}
	}
}

int cow_cmd_list(int argc, char **argv)
{
	static uint32_t ids[COW_MAX_DEVICES];
	struct cow_args args = { 0 };
	struct arguments own = { 0 };
	cow_args_parse(&argp, COW_ARGS_OUTPUT, argc, argv, &args, &own);
	if (own.requests)
		return cow_list_requests(own.target, args.json);
	int nr = cow_record_list(ids, COW_MAX_DEVICES);
	if (nr < 0)
		return cow_cmd_fail(COW_RUN_DIR ": %s", strerror(-nr));
	struct json_object *all = json_object_new_array();
	survey(all, ids, (unsigned)nr);
	add_leftovers(all);
	if (args.json)
		escape_names(all);
	if (args.json)
		puts(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PRETTY |
								 JSON_C_TO_STRING_SPACED |
								 JSON_C_TO_STRING_NOSLASHESCAPE));
	else if (json_object_array_length(all))
		print_table(all);
	json_object_put(all);
	return 0;
}
