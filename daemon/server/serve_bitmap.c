/* SPDX-License-Identifier: MIT */
#include "daemon/server/serve_bitmap.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/control/control.h"
#include "daemon/control/show.h"
#include "engine/base/log.h"
#include "engine/life/live_bitmap.h"

/* The answer under way. */
struct reply {
	struct json_object *line;
	void *bytes; /* that follow it; owned */
	size_t nr_bytes;
};

static struct json_object *failed(int ret, const struct cow_error *err)
{
	return cow_control_error(err->text[0] ? err->text : strerror(-ret));
}

static unsigned parse_sources(struct json_object *request,
			      const char *sources[COW_BITMAP_MAX_SOURCES])
{
	struct json_object *list;
	if (!json_object_object_get_ex(request, "sources", &list) ||
	    !json_object_is_type(list, json_type_array))
		return 0;
	size_t nr = json_object_array_length(list);
	nr = nr < COW_BITMAP_MAX_SOURCES ? nr : COW_BITMAP_MAX_SOURCES;
	for (size_t i = 0; i < nr; i++) {
		const char *name = json_object_get_string(json_object_array_get_idx(list, i));
		sources[i] = name ? name : "";
	}
	return (unsigned)nr;
}

static void change(struct cow_image *image, struct cow_loop *loop, struct json_object *request,
		   int command, struct reply *reply)
{
	const char *sources[COW_BITMAP_MAX_SOURCES];
	struct cow_error err = { 0 };
	uint64_t pause_ns = 0;
	const struct cow_bitmap_change c = {
		.command = (enum cow_bitmap_command)command,
		.name = cow_control_text(request, "name", ""),
		.granularity_bits = (unsigned)cow_control_number(request, "granularity-bits"),
		.disabled = cow_control_number(request, "disabled"),
		.nr_sources = parse_sources(request, sources),
		.sources = sources,
	};
	int ret = cow_image_change_bitmaps(image, loop, &c, &pause_ns, &err);
	reply->line = ret ? failed(ret, &err) : cow_control_ok();
	json_object_object_add(reply->line, "pause_ms",
			       json_object_new_double((double)pause_ns / 1e6));
	if (!ret)
		cow_log(COW_LOG_INFO, "bitmap %s: %s: requests waited for %.1f ms",
			cow_bitmap_command_name(c.command), c.name, (double)pause_ns / 1e6);
}

static void list(struct cow_image *image, struct cow_loop *loop, struct reply *reply)
{
	struct cow_error err = { 0 };
	struct cow_bitmap *bitmaps;
	uint32_t nr;
	int ret = cow_image_list_bitmaps(image, loop, &bitmaps, &nr, &err);
	if (ret) {
		reply->line = failed(ret, &err);
		return;
	}
	struct json_object *o = cow_show_bitmaps(bitmaps, nr);
	free(bitmaps);
	reply->bytes = strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	reply->line = reply->bytes ? cow_control_ok() : cow_control_error("out of memory");
	reply->nr_bytes = reply->bytes ? strlen(reply->bytes) : 0;
}

static void put_dump(const struct cow_dirty *d, struct reply *reply)
{
	reply->nr_bytes = cow_bitmap_data_bytes(d->size_bytes, d->granularity_bits);
	reply->bytes = malloc(reply->nr_bytes + 8);
	if (!reply->bytes) {
		reply->nr_bytes = 0;
		reply->line = cow_control_error("out of memory");
		return;
	}
	cow_dirty_store(d, 0, reply->bytes, (reply->nr_bytes + 7) & ~7ull);
	reply->line = cow_control_ok();
	json_object_object_add(reply->line, "size", json_object_new_uint64(d->size_bytes));
	json_object_object_add(reply->line, "granularity-bits",
			       json_object_new_int((int)d->granularity_bits));
}

static void dump(struct cow_image *image, struct cow_loop *loop, const char *name,
		 struct reply *reply)
{
	struct cow_error err = { 0 };
	struct cow_dirty d;
	int ret = cow_image_dump_bitmap(image, loop, name, &d, &err);
	if (ret) {
		reply->line = failed(ret, &err);
		return;
	}
	put_dump(&d, reply);
	cow_dirty_fini(&d);
}

static void answer(struct cow_image *image, struct cow_loop *loop, struct json_object *request,
		   struct reply *reply)
{
	const char *action = cow_control_text(request, "action", "");
	int command = cow_bitmap_command_find(action);
	if (command >= 0)
		change(image, loop, request, command, reply);
	else if (!strcmp(action, "list"))
		list(image, loop, reply);
	else if (!strcmp(action, "dump"))
		dump(image, loop, cow_control_text(request, "name", ""), reply);
	else
		reply->line = cow_control_error("not a request about bitmaps");
}

void cow_serve_bitmap(struct cow_image *image, struct cow_loop *loop, struct cow_job *job)
{
	struct reply reply = { 0 };
	answer(image, loop, job->request, &reply);
	json_object_object_add(reply.line, "bytes", json_object_new_uint64(reply.nr_bytes));
	job->reply = reply.line;
	job->bytes = reply.bytes;
	job->nr_bytes = reply.nr_bytes;
}
