/* SPDX-License-Identifier: MIT */
#include "daemon/client/ask_snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "daemon/client/ask.h"
#include "daemon/client/force.h"
#include "daemon/options/cmd.h"
#include "daemon/control/control.h"
#include "daemon/control/record.h"
#include "daemon/holders/fsfreeze.h"

/* Written back while they run: that hurts nobody, and may be much. */
#define SYNC_LIMIT_MS 600000
/* From the first file system frozen to the last one thawed. */
#define FREEZE_LIMIT_MS 30000

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

/* ---- with the file systems on it frozen ---- */

static void say(const char *text)
{
	fprintf(stderr, "cowblk: %s\n", text);
}

/*
 * They are frozen when the daemon has nothing else to do any more, and thawed when it has answered
 * or the time is over: the owner of the freeze sees to that.
 */
static int act_frozen(struct cow_talk *talk, struct cow_target target, struct cow_fsfreeze *f,
		      const struct cow_snapshot_key *key, struct json_object **reply)
{
	struct cow_error err = { 0 };
	if (cow_fsfreeze_freeze(f, &err))
		return cow_cmd_fail("/dev/ublkb%u: %s", target.id, err.text);
	struct json_object *go = json_object_new_object();
	json_object_object_add(go, "go", json_object_new_boolean(true));
	int status = cow_ask_again(talk, target.id, go, reply);
	if (!cow_fsfreeze_thaw(f, &err))
		return status;
	if (!status)
		cow_cmd_fail("/dev/ublkb%u: %s: what lies in snapshot %s may need recovery",
			     target.id, err.text, key->text);
	return 1;
}

/* 0: not known. Another process namespace's number is here another's, which may end at any time. */
static pid_t daemon_of(uint32_t id)
{
	struct cow_record record;
	if (cow_record_read(id, &record))
		return 0;
	pid_t pid = cow_force_is_alive(&record) ? record.pid : 0;
	cow_record_fini(&record);
	return pid;
}

static int ask_frozen(struct cow_talk *talk, struct cow_target target, struct json_object *request,
		      const struct cow_snapshot_key *key, struct json_object **reply)
{
	struct cow_fsfreeze f;
	struct cow_error err = { 0 };
	char disk[24];
	snprintf(disk, sizeof(disk), "ublkb%u", target.id);
	talk->fd = -1;
	int ret = cow_fsfreeze_prepare(&f, disk, SYNC_LIMIT_MS, FREEZE_LIMIT_MS,
				       daemon_of(target.id), say, &err);
	if (ret) {
		json_object_put(request);
		return cow_cmd_fail("/dev/%s: %s%s", disk, err.text,
				    ret == -ENOENT ? ": leave out --freeze" : "");
	}
	json_object_object_add(request, "freeze", json_object_new_boolean(true));
	int status = cow_ask(talk, target, request, reply);
	if (!status && !cow_control_number(*reply, "ready"))
		status = cow_cmd_fail("/dev/%s: its daemon is older than this command: snapshot %s "
				      "was made without a freeze",
				      disk, key->text);
	if (status) {
		cow_fsfreeze_leave(&f);
		return status;
	}
	json_object_put(*reply);
	*reply = NULL;
	return act_frozen(talk, target, &f, key, reply);
}

int cow_ask_snapshot(struct cow_target target, const char *action,
		     const struct cow_snapshot_key *key, bool freeze)
{
	struct cow_talk talk;
	struct json_object *reply = NULL, *request = new_request(action, key);
	int status = freeze ? ask_frozen(&talk, target, request, key, &reply)
			    : cow_ask(&talk, target, request, &reply);
	cow_talk_close(&talk);
	if (reply)
		show(reply);
	json_object_put(reply);
	return status;
}
