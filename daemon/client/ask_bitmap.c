/* SPDX-License-Identifier: MIT */
#include "daemon/client/ask_bitmap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/client/ask.h"
#include "daemon/options/cmd.h"
#include "daemon/control/control.h"

#define MAX_REPLY_BYTES (COW_DIRTY_MAX_BYTES + 4096)

struct reply {
	struct json_object *line;
	void *bytes; /* that follow it; owned */
	size_t nr_bytes;
};

static struct json_object *new_request(const char *action)
{
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "cmd", json_object_new_string("bitmap"));
	json_object_object_add(o, "action", json_object_new_string(action));
	return o;
}

/* The bytes after the line, with a NUL behind them. */
static int receive_bytes(struct cow_talk *talk, struct reply *reply)
{
	uint64_t bytes = cow_control_number(reply->line, "bytes");
	if (bytes > MAX_REPLY_BYTES)
		return -EMSGSIZE;
	reply->bytes = calloc(1, bytes + 8);
	reply->nr_bytes = bytes;
	return reply->bytes ? cow_talk_receive_bytes(talk, reply->bytes, bytes) : -ENOMEM;
}

/* Exit status; *reply is to be freed when it is 0. */
static int ask(struct cow_target target, struct json_object *request, struct reply *reply)
{
	struct cow_talk talk;
	memset(reply, 0, sizeof(*reply));
	int status = cow_ask(&talk, target, request, &reply->line);
	int error = status ? 0 : receive_bytes(&talk, reply);
	cow_talk_close(&talk);
	if (!error)
		return status;
	json_object_put(reply->line);
	free(reply->bytes);
	return cow_ask_fail(target.id, error);
}

int cow_ask_bitmap_change(struct cow_target target, const struct cow_bitmap_change *change)
{
	struct json_object *request = new_request(cow_bitmap_command_name(change->command));
	struct json_object *sources = json_object_new_array(), *pause;
	struct reply reply;
	if (change->nr_sources > COW_BITMAP_MAX_SOURCES)
		return cow_cmd_fail("more than %u sources at once", COW_BITMAP_MAX_SOURCES);
	for (unsigned i = 0; i < change->nr_sources; i++)
		json_object_array_add(sources, json_object_new_string(change->sources[i]));
	json_object_object_add(request, "name", json_object_new_string(change->name));
	json_object_object_add(request, "granularity-bits",
			       json_object_new_int((int)change->granularity_bits));
	json_object_object_add(request, "disabled", json_object_new_int(change->disabled));
	json_object_object_add(request, "sources", sources);
	int status = ask(target, request, &reply);
	if (status)
		return status;
	if (isatty(STDERR_FILENO) && json_object_object_get_ex(reply.line, "pause_ms", &pause))
		fprintf(stderr, "requests waited for %.1f ms\n", json_object_get_double(pause));
	json_object_put(reply.line);
	free(reply.bytes);
	return 0;
}

int cow_ask_bitmap_list(struct cow_target target, struct json_object **list)
{
	struct reply reply;
	int status = ask(target, new_request("list"), &reply);
	if (status)
		return status;
	*list = json_tokener_parse(reply.bytes);
	json_object_put(reply.line);
	free(reply.bytes);
	return *list ? 0 : cow_cmd_fail("/dev/ublkb%u: its daemon's answer is no JSON", target.id);
}

int cow_ask_bitmap_dump(struct cow_target target, const char *name, struct cow_dirty *d)
{
	struct json_object *request = new_request("dump");
	struct reply reply;
	json_object_object_add(request, "name", json_object_new_string(name));
	int status = ask(target, request, &reply);
	if (status)
		return status;
	uint64_t size = cow_control_number(reply.line, "size");
	unsigned bits = (unsigned)cow_control_number(reply.line, "granularity-bits");
	if (bits > COW_BITMAP_MAX_GRANULARITY_BITS ||
	    cow_bitmap_data_bytes(size, bits) != reply.nr_bytes)
		status =
			cow_cmd_fail("/dev/ublkb%u: its daemon's answer makes no sense", target.id);
	else if (cow_dirty_init(d, size, bits))
		status = cow_cmd_fail("out of memory");
	else
		cow_dirty_load(d, 0, reply.bytes, (reply.nr_bytes + 7) & ~7ull);
	json_object_put(reply.line);
	free(reply.bytes);
	return status;
}
