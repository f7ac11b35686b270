/* SPDX-License-Identifier: MIT */
#include "daemon/cli/ask_snapshot.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/cli/cmd.h"
#include "daemon/cli/fsfreeze.h"
#include "daemon/control/control.h"

static struct json_object *exchange(uint32_t id, const char *action,
				    const struct cow_snapshot_key *key, int *error)
{
	int fd = cow_control_connect(id);
	if (fd < 0) {
		*error = fd;
		return NULL;
	}
	struct json_object *request = json_object_new_object();
	json_object_object_add(request, "cmd", json_object_new_string("snapshot"));
	json_object_object_add(request, "action", json_object_new_string(action));
	json_object_object_add(request, "snapshot", json_object_new_string(key->text));
	json_object_object_add(request, "by", json_object_new_int(key->by));
	*error = cow_control_send(fd, request);
	struct json_object *reply = *error ? NULL : cow_control_receive(fd, -1, error);
	close(fd);
	return reply;
}

static int show(uint32_t id, struct json_object *reply, int error)
{
	struct json_object *pause;
	if (!reply)
		return cow_cmd_fail("/dev/ublkb%u: no answer from its daemon: %s", id,
				    strerror(-error));
	const char *text = cow_control_reply_error(reply);
	if (text)
		return cow_cmd_fail("/dev/ublkb%u: %s", id, text);
	const char *snapshot = cow_control_text(reply, "id", NULL);
	if (snapshot)
		puts(snapshot);
	if (isatty(STDERR_FILENO) && json_object_object_get_ex(reply, "pause_ms", &pause))
		fprintf(stderr, "requests waited for %.1f ms\n", json_object_get_double(pause));
	return 0;
}

int cow_ask_snapshot(uint32_t id, const char *action, const struct cow_snapshot_key *key,
		     bool freeze)
{
	struct cow_fsfreeze frozen = { 0 };
	struct cow_error err = { 0 };
	int error = 0;
	if (freeze && cow_fsfreeze(id, &frozen, &err))
		return cow_cmd_fail("%s", err.text);
	struct json_object *reply = exchange(id, action, key, &error);
	cow_fsthaw(&frozen);
	int status = show(id, reply, error);
	json_object_put(reply);
	return status;
}
