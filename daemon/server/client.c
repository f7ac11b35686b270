/* SPDX-License-Identifier: MIT */
/* See client.h. In this order: the request; the answer; while it waits. */
#include "daemon/server/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/assert.h"

/* For a request, from the connection to its last byte. */
#define READ_LIMIT_MS 2000u
/* For an answer: this, and a millisecond more for each KiB. */
#define SEND_LIMIT_MS 5000u
#define BEAT_MS 1000u

static bool waits(const struct cow_client *client)
{
	return client->state == COW_CLIENT_WAITING || client->state == COW_CLIENT_ASKING ||
	       client->state == COW_CLIENT_RUNNING || client->state == COW_CLIENT_STOPPED;
}

void cow_client_open(struct cow_client *client, int fd, uint64_t ticket, uint64_t now_ms)
{
	cow_assert(client->state == COW_CLIENT_FREE);
	*client = (struct cow_client){
		.state = COW_CLIENT_READING,
		.fd = fd,
		.ticket = ticket,
		.deadline_ms = now_ms + READ_LIMIT_MS,
	};
}

void cow_client_close(struct cow_client *client)
{
	cow_assert(client->state != COW_CLIENT_FREE);
	close(client->fd);
	json_object_put(client->request);
	free(client->line);
	free(client->bytes);
	*client = (struct cow_client){ .state = COW_CLIENT_FREE, .fd = -1 };
}

/* ---- the request ---- */

static bool parse(struct cow_client *client, uint64_t now_ms)
{
	struct json_object *v;
	client->request = json_tokener_parse(client->in);
	if (!client->request || !json_object_is_type(client->request, json_type_object)) {
		cow_client_answer(client, cow_control_error("not a request"), NULL, 0, now_ms);
		return false;
	}
	client->wants_progress = json_object_object_get_ex(client->request, "progress", &v) &&
				 json_object_get_boolean(v);
	client->state = COW_CLIENT_WAITING;
	client->beat_ms = now_ms;
	return true;
}

/* What follows the line is left to be read: it is the job's. */
bool cow_client_read(struct cow_client *client, uint64_t now_ms)
{
	cow_assert(client->state == COW_CLIENT_READING);
	char *at = client->in + client->nr_in;
	size_t room = sizeof(client->in) - client->nr_in;
	ssize_t n = recv(client->fd, at, room, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	char *end = n > 0 ? memchr(at, '\n', (size_t)n) : NULL;
	if (n > 0)
		n = recv(client->fd, at, end ? (size_t)(end - at) + 1 : (size_t)n, MSG_DONTWAIT);
	if (n <= 0 || (!end && (size_t)n == room)) {
		cow_client_close(client);
		return false;
	}
	client->nr_in += (size_t)n;
	if (!end)
		return false;
	*end = '\0';
	return parse(client, now_ms);
}

/* ---- the answer ---- */

static void sent(struct cow_client *client)
{
	if (!client->stays) {
		cow_client_close(client);
		return;
	}
	client->state = COW_CLIENT_TOLD;
	free(client->bytes);
	client->bytes = NULL;
}

void cow_client_send(struct cow_client *client)
{
	cow_assert(client->state == COW_CLIENT_SENDING);
	while (client->nr_sent < client->nr_line + client->nr_bytes) {
		bool in_line = client->nr_sent < client->nr_line;
		size_t at = in_line ? client->nr_sent : client->nr_sent - client->nr_line;
		const char *from = in_line ? client->line : client->bytes;
		size_t len = (in_line ? client->nr_line : client->nr_bytes) - at;
		ssize_t n = send(client->fd, from + at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			cow_client_close(client);
			return;
		}
		client->nr_sent += (size_t)n;
	}
	sent(client);
}

void cow_client_answer(struct cow_client *client, struct json_object *reply, void *bytes,
		       size_t nr_bytes, uint64_t now_ms)
{
	cow_assert(client->state != COW_CLIENT_FREE && !client->line);
	client->line = cow_control_line(reply);
	if (!client->line) {
		free(bytes);
		cow_client_close(client);
		return;
	}
	client->nr_line = strlen(client->line);
	client->bytes = bytes;
	client->nr_bytes = nr_bytes;
	client->deadline_ms = now_ms + SEND_LIMIT_MS + nr_bytes / 1024;
	client->state = COW_CLIENT_SENDING;
	cow_client_send(client);
}

/* ---- while it waits ---- */

/* A beat that is taken in part would garble the answer; so small a piece is taken whole or not. */
void cow_client_beat(struct cow_client *client, const char *text, uint64_t now_ms)
{
	char line[128];
	if (!waits(client) || !client->wants_progress || now_ms < client->beat_ms)
		return;
	client->beat_ms = now_ms + BEAT_MS;
	int len = snprintf(line, sizeof(line), "{\"progress\":\"%s\"}\n", text);
	if (len > 0 && (size_t)len < sizeof(line))
		(void)!send(client->fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool cow_client_is_late(const struct cow_client *client, uint64_t now_ms)
{
	return (client->state == COW_CLIENT_READING || client->state == COW_CLIENT_SENDING) &&
	       now_ms >= client->deadline_ms;
}

uint64_t cow_client_due_ms(const struct cow_client *client)
{
	if (client->state == COW_CLIENT_READING || client->state == COW_CLIENT_SENDING)
		return client->deadline_ms;
	return waits(client) && client->wants_progress ? client->beat_ms : UINT64_MAX;
}

short cow_client_events(const struct cow_client *client)
{
	return client->state == COW_CLIENT_READING   ? POLLIN
	       : client->state == COW_CLIENT_SENDING ? POLLOUT
						     : 0;
}
