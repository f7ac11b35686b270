/* SPDX-License-Identifier: MIT */
/* cowblk list: what is attached, asking each daemon. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/cli/cmd.h"
#include "daemon/control/record.h"
#include "daemon/control/show.h"
#include "daemon/control/talk.h"

#define MAX_DEVICES 4096
#define STATUS_TIMEOUT_MS 2000

struct list {
	bool json;
};

static const struct argp_option options[] = {
	{ "json", 'j', NULL, 0, "Print JSON", 0 },
	{ 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct list *list = state->input;
	switch (key) {
	case 'j':
		list->json = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse_option,
	.doc = "List attached images.\vStates: live; failed (the image takes no more writes); busy "
	       "(the daemon is at work, "
	       "detaching perhaps); dead (the daemon is gone: `cowblk detach` cleans up); running "
	       "(ask as root to know more).",
};

/* The daemon's own word, or NULL with *state set to what its silence means. */
static struct json_object *ask(uint32_t id, const char **state)
{
	struct cow_talk talk;
	int error = cow_talk_connect(&talk, id, 0, STATUS_TIMEOUT_MS);
	struct json_object *reply = NULL;
	if (!error) {
		struct json_object *request = json_object_new_object();
		json_object_object_add(request, "cmd", json_object_new_string("status"));
		error = cow_talk_send(&talk, request);
	} else {
		*state = error == -EACCES || error == -EPERM ? "running" : "dead";
		return NULL;
	}
	if (!error)
		reply = cow_talk_receive(&talk, &error);
	cow_talk_close(&talk);
	*state = "busy";
	if (reply)
		json_object_object_del(reply, "ok");
	return reply;
}

static struct json_object *describe(uint32_t id)
{
	const char *state;
	struct json_object *o = ask(id, &state);
	if (o)
		return o;
	struct cow_record record;
	if (cow_record_read(id, &record))
		return NULL; /* detached this very moment */
	o = cow_record_to_json(&record);
	json_object_object_add(o, "state", json_object_new_string(state));
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

static void print_row(struct json_object *o)
{
	char size[32], mode[300];
	struct json_object *v;
	format_size(json_object_object_get_ex(o, "size", &v) ? json_object_get_uint64(v) : 0, size,
		    sizeof(size));
	format_mode(o, mode, sizeof(mode));
	char *image = cow_show_clean(text_of(o, "image")), *clean_mode = cow_show_clean(mode);
	printf("%-14s %-32s %10s %-8s %6s %7s  %s\n", text_of(o, "device"), image, size,
	       text_of(o, "state"), text_of(o, "queues"), text_of(o, "pid"), clean_mode);
	free(image);
	free(clean_mode);
}

static void print_table(struct json_object *all)
{
	printf("%-14s %-32s %10s %-8s %6s %7s  %s\n", "DEVICE", "IMAGE", "SIZE", "STATE", "QUEUES",
	       "PID", "MODE");
	for (size_t i = 0; i < json_object_array_length(all); i++)
		print_row(json_object_array_get_idx(all, i));
}

int cow_cmd_list(int argc, char **argv)
{
	static uint32_t ids[MAX_DEVICES];
	struct list list = { 0 };
	argp_parse(&argp, argc, argv, 0, NULL, &list);
	int nr = cow_record_list(ids, MAX_DEVICES);
	if (nr < 0)
		return cow_cmd_fail(COW_RUN_DIR ": %s", strerror(-nr));
	struct json_object *all = json_object_new_array();
	for (int i = 0; i < nr; i++) {
		struct json_object *o = describe(ids[i]);
		if (o)
			json_object_array_add(all, o);
	}
	if (list.json)
		puts(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PRETTY |
								 JSON_C_TO_STRING_SPACED |
								 JSON_C_TO_STRING_NOSLASHESCAPE));
	else if (json_object_array_length(all))
		print_table(all);
	json_object_put(all);
	return 0;
}
