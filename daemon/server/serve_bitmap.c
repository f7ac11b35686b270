/* SPDX-License-Identifier: MIT */
#include "daemon/server/serve_bitmap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/cli/cmd.h"
#include "daemon/control/control.h"
#include "daemon/control/show.h"
#include "engine/base/log.h"
#include "engine/bitmap/tracking.h"

/* A client that takes nothing for so long has lost its answer. */
#define SEND_TIMEOUT_S 5
#define MAX_SOURCES 64u
#define MAX_REPLY_BYTES (COW_DIRTY_MAX_BYTES + 4096)

/* ---- in the daemon, on the control thread ---- */

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

static uint64_t number(struct json_object *o, const char *key)
{
	struct json_object *value;
	return json_object_object_get_ex(o, key, &value) ? json_object_get_uint64(value) : 0;
}

static unsigned parse_sources(struct json_object *request, const char *sources[MAX_SOURCES])
{
	struct json_object *list;
	if (!json_object_object_get_ex(request, "sources", &list) ||
	    !json_object_is_type(list, json_type_array))
		return 0;
	size_t nr = json_object_array_length(list);
	nr = nr < MAX_SOURCES ? nr : MAX_SOURCES;
	for (size_t i = 0; i < nr; i++) {
		const char *name = json_object_get_string(json_object_array_get_idx(list, i));
		sources[i] = name ? name : "";
	}
	return (unsigned)nr;
}

static void change(struct cow_image *image, struct cow_loop *loop, struct json_object *request,
		   int command, struct reply *reply)
{
	const char *sources[MAX_SOURCES];
	struct cow_error err = { 0 };
	uint64_t pause_ns = 0;
	const struct cow_bitmap_change c = {
		.command = (enum cow_bitmap_command)command,
		.name = cow_control_text(request, "name", ""),
		.granularity_bits = (unsigned)number(request, "granularity-bits"),
		.disabled = number(request, "disabled"),
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
	reply->nr_bytes = cow_dirty_bytes(d->size_bytes, d->granularity_bits);
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

void cow_live_bitmap_serve(struct cow_image *image, struct json_object *request, int client)
{
	const struct timeval timeout = { .tv_sec = SEND_TIMEOUT_S };
	struct reply reply = { 0 };
	struct cow_loop *loop;
	if (cow_loop_sync_new(&loop)) {
		cow_control_send(client, cow_control_error("out of memory"));
		return;
	}
	answer(image, loop, request, &reply);
	cow_loop_free(loop);
	setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	json_object_object_add(reply.line, "bytes", json_object_new_uint64(reply.nr_bytes));
	if (!cow_control_send(client, reply.line) && reply.nr_bytes)
		cow_control_send_bytes(client, reply.bytes, reply.nr_bytes);
	free(reply.bytes);
}

/* ---- in the client ---- */

static struct json_object *new_request(const char *action)
{
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "cmd", json_object_new_string("bitmap"));
	json_object_object_add(o, "action", json_object_new_string(action));
	return o;
}

/* The bytes after the line, with a NUL behind them. */
static int receive_bytes(int fd, struct reply *reply)
{
	uint64_t bytes = number(reply->line, "bytes");
	if (bytes > MAX_REPLY_BYTES)
		return -EMSGSIZE;
	reply->bytes = calloc(1, bytes + 8);
	reply->nr_bytes = bytes;
	return reply->bytes ? cow_control_receive_bytes(fd, reply->bytes, bytes) : -ENOMEM;
}

static int exchange(uint32_t id, struct json_object *request, struct reply *reply)
{
	int fd = cow_control_connect(id), error = fd < 0 ? fd : 0;
	if (error)
		json_object_put(request);
	else
		error = cow_control_send(fd, request);
	if (!error)
		reply->line = cow_control_receive(fd, -1, &error);
	if (reply->line && !cow_control_reply_error(reply->line))
		error = receive_bytes(fd, reply);
	if (fd >= 0)
		close(fd);
	return error;
}

/* Exit status; *reply is to be freed when it is 0. */
static int ask(uint32_t id, struct json_object *request, struct reply *reply)
{
	memset(reply, 0, sizeof(*reply));
	int error = exchange(id, request, reply), status = 0;
	const char *text = reply->line ? cow_control_reply_error(reply->line) : NULL;
	if (error)
		status = cow_cmd_fail("/dev/ublkb%u: no answer from its daemon: %s", id,
				      strerror(-error));
	else if (text)
		status = cow_cmd_fail("/dev/ublkb%u: %s", id, text);
	if (!status)
		return 0;
	json_object_put(reply->line);
	free(reply->bytes);
	return status;
}

int cow_live_bitmap_change(uint32_t id, const struct cow_bitmap_change *change)
{
	struct json_object *request = new_request(cow_bitmap_command_name(change->command));
	struct json_object *sources = json_object_new_array(), *pause;
	struct reply reply;
	if (change->nr_sources > MAX_SOURCES)
		return cow_cmd_fail("more than %u sources at once", MAX_SOURCES);
	for (unsigned i = 0; i < change->nr_sources; i++)
		json_object_array_add(sources, json_object_new_string(change->sources[i]));
	json_object_object_add(request, "name", json_object_new_string(change->name));
	json_object_object_add(request, "granularity-bits",
			       json_object_new_int((int)change->granularity_bits));
	json_object_object_add(request, "disabled", json_object_new_int(change->disabled));
	json_object_object_add(request, "sources", sources);
	int status = ask(id, request, &reply);
	if (status)
		return status;
	if (isatty(STDERR_FILENO) && json_object_object_get_ex(reply.line, "pause_ms", &pause))
		fprintf(stderr, "requests waited for %.1f ms\n", json_object_get_double(pause));
	json_object_put(reply.line);
	free(reply.bytes);
	return 0;
}

int cow_live_bitmap_list(uint32_t id, struct json_object **list)
{
	struct reply reply;
	int status = ask(id, new_request("list"), &reply);
	if (status)
		return status;
	*list = json_tokener_parse(reply.bytes);
	json_object_put(reply.line);
	free(reply.bytes);
	return *list ? 0 : cow_cmd_fail("/dev/ublkb%u: its daemon's answer is no JSON", id);
}

int cow_live_bitmap_dump(uint32_t id, const char *name, struct cow_dirty *d)
{
	struct json_object *request = new_request("dump");
	struct reply reply;
	json_object_object_add(request, "name", json_object_new_string(name));
	int status = ask(id, request, &reply);
	if (status)
		return status;
	uint64_t size = number(reply.line, "size");
	unsigned bits = (unsigned)number(reply.line, "granularity-bits");
	if (bits > COW_BITMAP_MAX_GRANULARITY_BITS || cow_dirty_bytes(size, bits) != reply.nr_bytes)
		status = cow_cmd_fail("/dev/ublkb%u: its daemon's answer makes no sense", id);
	else if (cow_dirty_init(d, size, bits))
		status = cow_cmd_fail("out of memory");
	else
		cow_dirty_load(d, 0, reply.bytes, (reply.nr_bytes + 7) & ~7ull);
	json_object_put(reply.line);
	free(reply.bytes);
	return status;
}
