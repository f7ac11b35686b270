/* SPDX-License-Identifier: MIT */
#include "daemon/client/ask.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "daemon/options/cmd.h"
#include "daemon/control/record.h"

static pid_t pid_of(uint32_t id)
{
	struct cow_record record;
	if (cow_record_read(id, &record))
		return 0;
	pid_t pid = record.pid;
	cow_record_fini(&record);
	return pid;
}

int cow_ask_fail(uint32_t id, int error)
{
	switch (error) {
	case -ETIMEDOUT:
		return cow_cmd_fail(
			"/dev/ublkb%u: its daemon (process %d) does not answer: `cowblk "
			"detach --force /dev/ublkb%u` takes the device away from it",
			id, (int)pid_of(id), id);
	case -ECONNREFUSED:
	case -ENOENT:
		return cow_cmd_fail("/dev/ublkb%u: its daemon is dead: `cowblk detach "
				    "/dev/ublkb%u` cleans up",
				    id, id);
	case -EACCES:
	case -EPERM:
		return cow_cmd_fail("/dev/ublkb%u: %s: run as root", id, strerror(-error));
	case -ENODATA:
	case -ECONNRESET:
	case -EPIPE:
		return cow_cmd_fail("/dev/ublkb%u: its daemon ended without an answer", id);
	default:
		return cow_cmd_fail("/dev/ublkb%u: no answer from its daemon: %s", id,
				    strerror(-error));
	}
}

struct json_object *cow_ask_within(struct cow_talk *talk, struct cow_target target,
				   struct json_object *request, unsigned silence_ms,
				   unsigned limit_ms, int *error)
{
	json_object_object_add(request, "progress", json_object_new_boolean(true));
	if (target.cookie)
		json_object_object_add(request, "cookie", json_object_new_uint64(target.cookie));
	*error = cow_talk_connect(talk, target.id, pid_of(target.id), silence_ms);
	if (*error) {
		json_object_put(request);
		return NULL;
	}
	if (limit_ms != UINT_MAX)
		talk->end_ms = talk->begun_ms + limit_ms;
	*error = cow_talk_send(talk, request);
	return *error ? NULL : cow_talk_receive(talk, error);
}

int cow_ask_show_error(uint32_t id, struct json_object *reply)
{
	const char *text = cow_control_reply_error(reply);
	int status = 0;
	if (text)
		status = strncmp(text, "/dev/", 5) ? cow_cmd_fail("/dev/ublkb%u: %s", id, text)
						   : cow_cmd_fail("%s", text);
	json_object_put(reply);
	return status;
}

/* What an answer means, when there was one. */
static int judge(uint32_t id, struct json_object **reply, int error)
{
	if (!*reply)
		return cow_ask_fail(id, error);
	if (!cow_control_reply_error(*reply))
		return 0;
	int status = cow_ask_show_error(id, *reply);
	*reply = NULL;
	return status;
}

int cow_ask(struct cow_talk *talk, struct cow_target target, struct json_object *request,
	    struct json_object **reply)
{
	int error;
	*reply = cow_ask_within(talk, target, request, COW_ASK_LIMIT_MS, UINT_MAX, &error);
	return judge(target.id, reply, error);
}

int cow_ask_again(struct cow_talk *talk, uint32_t id, struct json_object *request,
		  struct json_object **reply)
{
	int error = cow_talk_send(talk, request);
	*reply = error ? NULL : cow_talk_receive(talk, &error);
	return judge(id, reply, error);
}
