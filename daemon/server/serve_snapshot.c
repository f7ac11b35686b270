/* SPDX-License-Identifier: MIT */
#include "daemon/server/serve_snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/control/control.h"
#include "engine/base/log.h"
#include "engine/life/freeze.h"

struct change {
	bool create;
	struct cow_snapshot_key key;
	char *id;
};

static int run_change(void *ctx, struct cow_loop *loop, struct cow_file *file,
		      struct cow_error *err)
{
	struct change *c = ctx;
	if (!c->create)
		return cow_snapshot_delete(loop, file, &c->key, err);
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	const struct cow_snapshot_date date = { .sec = (uint32_t)now.tv_sec,
						.nsec = (uint32_t)now.tv_nsec };
	return cow_snapshot_create(loop, file, c->key.text, &date, &c->id, err);
}

static bool parse_change(struct json_object *request, struct change *c)
{
	struct json_object *by;
	const char *action = cow_control_text(request, "action", "");
	c->create = !strcmp(action, "create");
	c->key.text = cow_control_text(request, "snapshot", NULL);
	if (json_object_object_get_ex(request, "by", &by))
		c->key.by = (enum cow_snapshot_by)json_object_get_int(by);
	return c->key.text && c->key.by <= COW_SNAPSHOT_BY_NAME &&
	       (c->create || !strcmp(action, "delete"));
}

static struct json_object *change(struct cow_image *image, struct json_object *request)
{
	struct change c = { 0 };
	struct cow_error err = { 0 };
	struct cow_loop *loop;
	uint64_t pause_ns = 0;
	if (!parse_change(request, &c))
		return cow_control_error("not a request about snapshots");
	if (cow_loop_sync_new(&loop))
		return cow_control_error("out of memory");
	int ret = cow_image_change_frozen(image, loop, run_change, &c, &pause_ns, &err);
	cow_loop_free(loop);
	struct json_object *reply =
		ret ? cow_control_error(err.text[0] ? err.text : strerror(-ret)) : cow_control_ok();
	if (!ret)
		cow_log(COW_LOG_INFO, "snapshot %s %s: requests waited for %.1f ms", c.key.text,
			c.create ? "created" : "deleted", (double)pause_ns / 1e6);
	if (c.id)
		json_object_object_add(reply, "id", json_object_new_string(c.id));
	json_object_object_add(reply, "pause_ms", json_object_new_double((double)pause_ns / 1e6));
	free(c.id);
	return reply;
}

void cow_serve_snapshot(struct cow_image *image, struct cow_job *job)
{
	job->reply = change(image, job->request);
}
