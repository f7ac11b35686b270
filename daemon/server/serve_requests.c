/* SPDX-License-Identifier: MIT */
/* See serve_requests.h: asking, the list of all, JSON, the log. */
#include "daemon/server/serve_requests.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/control/control.h"
#include "daemon/control/show.h"
#include "engine/base/log.h"
#include "engine/request/kind.h"

/* A queue's thread comes to its messages at once unless it is stuck in the kernel. */
#define ANSWER_LIMIT_MS 1000u
#define MAX_SHOWN 4096u
#define MAX_LOGGED 256u

/* The path of a file is the longest that is in it. */
#define WAIT_TEXT_BYTES (PATH_MAX + 128)

void cow_requests_ask(struct cow_requests *requests, uint64_t now_ms)
{
	for (unsigned i = 0; i < requests->device->nr_queues; i++)
		cow_uqueue_ask(&requests->device->queues[i]);
	requests->asking = true;
	requests->deadline_ms = now_ms + ANSWER_LIMIT_MS;
}

static bool is_silent(const struct cow_requests *requests, unsigned queue)
{
	return !cow_uqueue_has_answered(&requests->device->queues[queue]);
}

bool cow_requests_are_in(const struct cow_requests *requests, uint64_t now_ms)
{
	uint64_t count;
	while (read(requests->device->answer_fd, &count, sizeof(count)) == sizeof(count))
		;
	for (unsigned i = 0; i < requests->device->nr_queues; i++)
		if (is_silent(requests, i))
			return now_ms >= requests->deadline_ms;
	return true;
}

/* ---- the list of all ---- */

struct list {
	struct cow_uqueue_request *requests; /* NULL: no memory */
	unsigned nr;
};

static int older_first(const void *a, const void *b)
{
	const struct cow_uqueue_request *x = a, *y = b;
	return (x->age_ns < y->age_ns) - (x->age_ns > y->age_ns);
}

static struct list collect(const struct cow_device *device)
{
	unsigned max = device->nr_queues * device->depth;
	struct list all = { .requests = calloc(max, sizeof(*all.requests)) };
	if (!all.requests)
		return all;
	for (unsigned i = 0; i < device->nr_queues; i++)
		all.nr += cow_uqueue_requests(&device->queues[i], all.requests + all.nr,
					      max - all.nr);
	qsort(all.requests, all.nr, sizeof(*all.requests), older_first);
	return all;
}

static void wait_text(const struct cow_uqueue_request *request, char *text, size_t len)
{
	if (request->peeked)
		snprintf(text, len, "the thread of queue %u", request->queue);
	else
		cow_inspect_wait_text(&request->engine, text, len);
}

/* ---- JSON ---- */

static struct json_object *show_one(const struct cow_uqueue_request *request)
{
	const struct cow_inspected *r = &request->engine;
	struct json_object *o = json_object_new_object();
	char text[WAIT_TEXT_BYTES];
	wait_text(request, text, sizeof(text));
	cow_show_u64(o, "queue", request->queue);
	cow_show_u64(o, "tag", r->idx);
	cow_show_string(o, "kind", cow_inspect_kind(r->kind));
	json_object_object_add(o, "fua", json_object_new_boolean(r->flags & COW_OP_FUA));
	cow_show_u64(o, "offset", r->off);
	cow_show_u64(o, "length", r->end - r->off);
	cow_show_u64(o, "age-ms", request->age_ns / 1000000u);
	json_object_object_add(o, "step", r->step ? json_object_new_string(r->step) : NULL);
	cow_show_string(o, "waits-for", text);
	cow_show_u64(o, "host-ios", r->nr_ios);
	return o;
}

static struct json_object *silent_queues(const struct cow_requests *requests)
{
	struct json_object *array = json_object_new_array();
	for (unsigned i = 0; i < requests->device->nr_queues; i++)
		if (is_silent(requests, i))
			json_object_array_add(array, json_object_new_int64(i));
	return array;
}

struct json_object *cow_requests_show(const struct cow_requests *requests, void **bytes,
				      size_t *nr_bytes)
{
	struct list all = collect(requests->device);
	unsigned nr = all.nr < MAX_SHOWN ? all.nr : MAX_SHOWN;
	struct json_object *o = json_object_new_object(), *array = json_object_new_array();
	for (unsigned i = 0; i < nr; i++)
		json_object_array_add(array, show_one(&all.requests[i]));
	json_object_object_add(o, "requests", array);
	json_object_object_add(o, "silent-queues", silent_queues(requests));
	cow_show_u64(o, "left-out", all.nr - nr);
	*bytes = all.requests ? strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN))
			      : NULL;
	*nr_bytes = *bytes ? strlen(*bytes) : 0;
	json_object_put(o);
	free(all.requests);
	if (!*bytes)
		return cow_control_error("out of memory");
	struct json_object *reply = cow_control_ok();
	cow_show_u64(reply, "bytes", *nr_bytes);
	return reply;
}

/* ---- the log ---- */

static void log_one(const struct cow_device *device, const struct cow_uqueue_request *request)
{
	const struct cow_inspected *r = &request->engine;
	char text[WAIT_TEXT_BYTES];
	wait_text(request, text, sizeof(text));
	cow_log(COW_LOG_INFO,
		"%s: queue %u tag %u: %s%s of %" PRIu64 " bytes at %" PRIu64 ", %" PRIu64
		" ms old: %s, waits for %s",
		device->path, request->queue, r->idx, cow_inspect_kind(r->kind),
		r->flags & COW_OP_FUA ? " (FUA)" : "", r->end - r->off, r->off,
		request->age_ns / 1000000u, r->step ? r->step : "at a step that is not known",
		text);
}

void cow_requests_log(const struct cow_requests *requests)
{
	const struct cow_device *device = requests->device;
	struct list all = collect(device);
	unsigned nr = all.nr < MAX_LOGGED ? all.nr : MAX_LOGGED;
	cow_log(COW_LOG_INFO, "%s: %u requests in flight%s", device->path, all.nr,
		nr < all.nr ? ", the oldest of them:" : "");
	for (unsigned i = 0; i < nr; i++)
		log_one(device, &all.requests[i]);
	for (unsigned i = 0; i < device->nr_queues; i++)
		if (is_silent(requests, i))
			cow_log(COW_LOG_WARNING, "%s: queue %u: its thread does not answer",
				device->path, i);
	free(all.requests);
}
