/* SPDX-License-Identifier: MIT */
#include "daemon/server/serve_snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/control/control.h"
#include "daemon/control/talk.h"
#include "engine/base/log.h"
#include "engine/life/live.h"

/* For the client to freeze; it gives up earlier. */
#define GO_LIMIT_MS 60000
#define GO_POLL_MS 200

static void moment(void *ctx, struct cow_snapshot_date *date)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	*date = (struct cow_snapshot_date){ .sec = (uint32_t)now.tv_sec,
					    .nsec = (uint32_t)now.tv_nsec };
}

static bool parse_change(struct json_object *request, struct cow_live_snapshot *s)
{
	struct json_object *by;
	const char *action = cow_control_text(request, "action", "");
	bool create = !strcmp(action, "create");
	s->what = create ? COW_LIVE_CREATE : COW_LIVE_DELETE;
	s->key.text = cow_control_text(request, "snapshot", NULL);
	if (json_object_object_get_ex(request, "by", &by))
		s->key.by = (enum cow_snapshot_by)json_object_get_int(by);
	return s->key.text && s->key.by <= COW_SNAPSHOT_BY_NAME &&
	       (create || !strcmp(action, "delete"));
}

static void tell(const struct cow_live_snapshot *s)
{
	double ms = (double)s->pause_ns / 1e6;
	cow_log(COW_LOG_INFO, "snapshot %s %s: requests waited for %.1f ms%s", s->key.text,
		s->what == COW_LIVE_CREATE ? "created" : "deleted", ms,
		s->all_frozen ? ", since there was no room to prepare it beside them" : "");
}

/*
 * The client freezes file systems when all is prepared, and not before: it is told so, and says when
 * it has.
 */
static int wait_frozen(void *ctx)
{
	struct cow_job *job = ctx;
	struct cow_talk talk;
	struct json_object *go = NULL, *ready = cow_control_ok();
	json_object_object_add(ready, "ready", json_object_new_int(1));
	job->doing = "waiting for file systems to be frozen";
	cow_talk_init(&talk, job->client_fd, GO_POLL_MS);
	int ret = cow_talk_send(&talk, ready);
	if (!ret)
		ret = -ETIMEDOUT;
	for (unsigned ms = 0; ret == -ETIMEDOUT && ms < GO_LIMIT_MS && !job->given_up;
	     ms += GO_POLL_MS)
		go = cow_talk_receive(&talk, &ret);
	bool frozen = go && cow_control_number(go, "go");
	json_object_put(go);
	job->doing = NULL;
	return frozen ? 0 : -ECANCELED;
}

static struct json_object *change(struct cow_image *image, struct cow_loop *loop,
				  struct cow_job *job)
{
	struct cow_live_snapshot s = { .moment = moment, .ctx = job, .cancel = &job->given_up };
	struct cow_error err = { 0 };
	if (!parse_change(job->request, &s))
		return cow_control_error("not a request about snapshots");
	if (cow_control_number(job->request, "freeze"))
		s.ready = wait_frozen;
	int ret = cow_image_change_snapshot(image, loop, &s, &err);
	if (ret == -ECANCELED && s.was_ready)
		return cow_control_error("nothing was frozen in time: no snapshot is made");
	struct json_object *reply =
		ret ? cow_control_error(err.text[0] ? err.text : strerror(-ret)) : cow_control_ok();
	if (!ret)
		tell(&s);
	if (s.id)
		json_object_object_add(reply, "id", json_object_new_string(s.id));
	json_object_object_add(reply, "pause_ms", json_object_new_double((double)s.pause_ns / 1e6));
	free(s.id);
	return reply;
}

void cow_serve_snapshot(struct cow_image *image, struct cow_loop *loop, struct cow_job *job)
{
	job->reply = change(image, loop, job);
}
