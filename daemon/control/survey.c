/* SPDX-License-Identifier: MIT */
#include "daemon/control/survey.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/control/control.h"

/* Below the usual limit of descriptors. */
#define WINDOW 256u
/* A full backlog is tried again; nothing tells when there is room. */
#define RETRY_MS 20

static void end(struct cow_survey *s, int error)
{
	s->error = error;
	if (s->fd >= 0)
		close(s->fd);
	free(s->in);
	s->fd = -1;
	s->in = NULL;
}

/* A new socket takes so short a line at once. */
static void ask(struct cow_survey *s)
{
	static const char request[] = "{\"cmd\":\"status\"}\n";
	s->fd = cow_control_connect(s->id);
	if (s->fd == -EAGAIN)
		return;
	if (s->fd < 0) {
		end(s, s->fd);
		return;
	}
	s->in = malloc(COW_CONTROL_LINE_BYTES);
	if (!s->in)
		end(s, -ENOMEM);
	else if (send(s->fd, request, sizeof(request) - 1, MSG_NOSIGNAL) < 0)
		end(s, -errno);
}

static void parse(struct cow_survey *s)
{
	s->reply = json_tokener_parse(s->in);
	if (s->reply && json_object_is_type(s->reply, json_type_object)) {
		end(s, 0);
		return;
	}
	json_object_put(s->reply);
	s->reply = NULL;
	end(s, -EINVAL);
}

static void hear(struct cow_survey *s)
{
	size_t room = COW_CONTROL_LINE_BYTES - s->nr_in;
	ssize_t n = recv(s->fd, s->in + s->nr_in, room, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	char *newline = n > 0 ? memchr(s->in + s->nr_in, '\n', (size_t)n) : NULL;
	if (newline) {
		*newline = '\0';
		parse(s);
	} else if (n <= 0 || (size_t)n == room) {
		end(s, n < 0 ? -errno : n ? -EMSGSIZE : -ENODATA);
	} else {
		s->nr_in += (size_t)n;
	}
}

/* One round; false: nobody is left to be heard. */
static bool listen_to(struct cow_survey *all, unsigned nr, uint64_t left_ms)
{
	struct pollfd fds[WINDOW];
	bool asking = false, hearing = false;
	for (unsigned i = 0; i < nr; i++) {
		if (all[i].fd == -EAGAIN)
			ask(&all[i]);
		asking |= all[i].fd == -EAGAIN;
		hearing |= all[i].fd >= 0;
		fds[i] = (struct pollfd){ .fd = all[i].fd, .events = POLLIN };
	}
	if (!asking && !hearing)
		return false;
	uint64_t ms = asking && left_ms > RETRY_MS ? RETRY_MS : left_ms;
	if (poll(fds, nr, (int)ms) > 0)
		for (unsigned i = 0; i < nr; i++)
			if (all[i].fd >= 0 && fds[i].revents)
				hear(&all[i]);
	return true;
}

static void run_window(struct cow_survey *all, unsigned nr, unsigned limit_ms)
{
	uint64_t deadline = cow_control_now_ms() + limit_ms, now;
	for (unsigned i = 0; i < nr; i++)
		all[i] = (struct cow_survey){ .id = all[i].id, .fd = -EAGAIN };
	while ((now = cow_control_now_ms()) < deadline && listen_to(all, nr, deadline - now))
		;
	for (unsigned i = 0; i < nr; i++)
		if (all[i].fd >= 0 || all[i].fd == -EAGAIN)
			end(&all[i], -ETIMEDOUT);
}

void cow_survey_run(struct cow_survey *all, unsigned nr, unsigned limit_ms)
{
	for (unsigned at = 0; at < nr; at += WINDOW)
		run_window(all + at, nr - at < WINDOW ? nr - at : WINDOW, limit_ms);
}
