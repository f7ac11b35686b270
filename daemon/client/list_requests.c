/* SPDX-License-Identifier: MIT */
/* See list_requests.h. In this order: which devices; text. */
#include "daemon/client/list_requests.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/client/ask_requests.h"
#include "daemon/options/cmd.h"
#include "daemon/options/named.h"
#include "daemon/control/control.h"
#include "daemon/control/record.h"
#include "daemon/control/show.h"
#include "daemon/control/survey.h"
#include "daemon/control/target.h"

#define STATUS_TIMEOUT_MS 2000

/* ---- which devices ---- */

/* Those of dead daemons have no requests, and those that do not answer are told as such when asked. */
static int find_all(uint32_t *ids)
{
	int nr = cow_record_list(ids, COW_MAX_DEVICES), kept = 0;
	if (nr <= 0)
		return nr;
	struct cow_survey *surveys = calloc((size_t)nr, sizeof(*surveys));
	if (!surveys)
		return -ENOMEM;
	for (int i = 0; i < nr; i++)
		surveys[i].id = ids[i];
	cow_survey_run(surveys, (unsigned)nr, STATUS_TIMEOUT_MS);
	for (int i = 0; i < nr; i++) {
		int error = surveys[i].error;
		if (error != -ECONNREFUSED && error != -ENOENT && error != -ENODATA)
			ids[kept++] = surveys[i].id;
		json_object_put(surveys[i].reply);
	}
	free(surveys);
	return kept;
}

static void not_attached(const char *target)
{
	char text[4500];
	snprintf(text, sizeof(text), "%s: is not attached", target);
	COW_IGNORE(cow_named_fail_alike(target, text));
}

/* Their number, or -1 after an error was told. */
static int find(const char *target, uint32_t *ids)
{
	if (target && cow_target_is_ambiguous(target)) {
		cow_cmd_fail_ambiguous(target);
		return -1;
	}
	if (target && cow_target_device(target, &ids[0]))
		return 1;
	int nr = target ? cow_target_image(target, ids, COW_MAX_DEVICES) : find_all(ids);
	if (nr < 0)
		cow_cmd_fail("%s: %s", target ? target : COW_RUN_DIR, strerror(-nr));
	else if (target && !nr)
		not_attached(target);
	return nr < 0 || (target && !nr) ? -1 : nr;
}

/* ---- text ---- */

static uint64_t number(struct json_object *o, const char *key)
{
	return cow_control_number(o, key);
}

static void print_row(const char *device, struct json_object *r)
{
	char *wait = cow_show_clean(cow_control_text(r, "waits-for", "?"));
	uint64_t ms = number(r, "age-ms");
	struct json_object *fua;
	bool is_fua = json_object_object_get_ex(r, "fua", &fua) && json_object_get_boolean(fua);
	char kind[32];
	snprintf(kind, sizeof(kind), "%s%s", cow_control_text(r, "kind", "?"),
		 is_fua ? "+fua" : "");
	printf("%-12s %5" PRIu64 " %4" PRIu64 " %-16s %14" PRIu64 " %10" PRIu64 " %6" PRIu64
	       ".%" PRIu64 " s  %-22s %s\n",
	       device, number(r, "queue"), number(r, "tag"), kind, number(r, "offset"),
	       number(r, "length"), ms / 1000, ms % 1000 / 100, cow_control_text(r, "step", "?"),
	       wait);
	free(wait);
}

static void print_silent(const char *device, struct json_object *answer)
{
	struct json_object *silent;
	if (!json_object_object_get_ex(answer, "silent-queues", &silent) ||
	    !json_object_is_type(silent, json_type_array))
		return;
	for (size_t i = 0; i < json_object_array_length(silent); i++)
		fprintf(stderr,
			"cowblk: %s: queue %d: its thread does not answer: what its requests are "
			"at is not known\n",
			device, json_object_get_int(json_object_array_get_idx(silent, i)));
}

static void print_text(struct json_object *all)
{
	bool headed = false;
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i), *list;
		const char *device = cow_control_text(o, "device", "?");
		if (!json_object_object_get_ex(o, "requests", &list) ||
		    !json_object_is_type(list, json_type_array))
			continue;
		size_t nr = json_object_array_length(list);
		if (nr && !headed)
			printf("%-12s %5s %4s %-16s %14s %10s %10s  %-22s %s\n", "DEVICE", "QUEUE",
			       "TAG", "KIND", "OFFSET", "LENGTH", "AGE", "STEP", "WAITS FOR");
		headed |= nr;
		for (size_t k = 0; k < nr; k++)
			print_row(device, json_object_array_get_idx(list, k));
		if (number(o, "left-out"))
			printf("%s: %" PRIu64 " younger ones are left out\n", device,
			       number(o, "left-out"));
		print_silent(device, o);
	}
}

int cow_list_requests(const char *target, bool json)
{
	static uint32_t ids[COW_MAX_DEVICES];
	int nr = find(target, ids), status = nr < 0;
	struct json_object *all = json_object_new_array();
	for (int i = 0; i < nr; i++) {
		struct json_object *answer;
		char device[24];
		if (cow_ask_requests((struct cow_target){ .id = ids[i] }, &answer)) {
			status = 1;
			continue;
		}
		snprintf(device, sizeof(device), "/dev/ublkb%" PRIu32, ids[i]);
		json_object_object_add(answer, "device", json_object_new_string(device));
		json_object_array_add(all, answer);
	}
	if (json && nr >= 0)
		puts(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PRETTY |
								 JSON_C_TO_STRING_SPACED |
								 JSON_C_TO_STRING_NOSLASHESCAPE));
	else
		print_text(all);
	json_object_put(all);
	return status;
}
