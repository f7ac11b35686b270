/* SPDX-License-Identifier: MIT */
#include "daemon/cli/ask_snapshot.h"

#include <stdio.h>
#include <unistd.h>

#include "daemon/cli/ask.h"
#include "daemon/cli/cmd.h"
#include "daemon/cli/fsfreeze.h"
#include "daemon/control/control.h"

static struct json_object *new_request(const char *action, const struct cow_snapshot_key *key)
{
	struct json_object *request = json_object_new_object();
	json_object_object_add(request, "cmd", json_object_new_string("snapshot"));
	json_object_object_add(request, "action", json_object_new_string(action));
	json_object_object_add(request, "snapshot", json_object_new_string(key->text));
	json_object_object_add(request, "by", json_object_new_int(key->by));
	return request;
}

static void show(struct json_object *reply)
{
	struct json_object *pause;
	const char *snapshot = cow_control_text(reply, "id", NULL);
	if (snapshot)
		puts(snapshot);
	if (isatty(STDERR_FILENO) && json_object_object_get_ex(reply, "pause_ms", &pause))
		fprintf(stderr, "requests waited for %.1f ms\n", json_object_get_double(pause));
}

int cow_ask_snapshot(uint32_t id, const char *action, const struct cow_snapshot_key *key,
		     bool freeze)
{
	struct cow_fsfreeze frozen = { 0 };
	struct cow_error err = { 0 };
	struct cow_talk talk;
	struct json_object *reply;
	if (freeze && cow_fsfreeze(id, &frozen, &err))
		return cow_cmd_fail("%s", err.text);
	int status = cow_ask(&talk, id, new_request(action, key), &reply);
	cow_talk_close(&talk);
	cow_fsthaw(&frozen);
	if (status)
		return status;
	show(reply);
	json_object_put(reply);
	return 0;
}
