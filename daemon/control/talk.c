/* SPDX-License-Identifier: MIT */
/* See talk.h. In this order: waiting; lines and bytes. */
#include "daemon/control/talk.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FIRST_WORD_MS 2000u
#define NEXT_WORD_MS 30000u
#define CONNECT_POLL_MS 20u

static void begin(struct cow_talk *talk)
{
	talk->begun_ms = cow_control_now_ms();
	talk->word_ms = talk->begun_ms + FIRST_WORD_MS;
}

static void restart_limit(struct cow_talk *talk)
{
	uint64_t own =
		talk->limit_ms == UINT_MAX ? UINT64_MAX : cow_control_now_ms() + talk->limit_ms;
	talk->deadline_ms = own < talk->end_ms ? own : talk->end_ms;
}

void cow_talk_init(struct cow_talk *talk, int fd, unsigned limit_ms)
{
	talk->fd = fd;
	talk->limit_ms = limit_ms;
	talk->whom[0] = '\0';
	talk->nr_line = 0;
	talk->end_ms = UINT64_MAX;
	begin(talk);
	restart_limit(talk);
}

void cow_talk_close(struct cow_talk *talk)
{
	if (talk->fd >= 0)
		close(talk->fd);
	talk->fd = -1;
}

/* ---- waiting ---- */

static void say_word(struct cow_talk *talk, uint64_t now, const char *doing)
{
	if (!talk->whom[0] || now < talk->word_ms)
		return;
	talk->word_ms = now + NEXT_WORD_MS;
	fprintf(stderr, "cowblk: waiting for %s (%llu s)%s%s\n", talk->whom,
		(unsigned long long)(now - talk->begun_ms) / 1000, doing ? ": " : "",
		doing ? doing : "");
}

/* At most until the deadline or the next word. */
static int slice_ms(const struct cow_talk *talk, uint64_t now)
{
	uint64_t until = talk->deadline_ms;
	if (talk->whom[0] && talk->word_ms < until)
		until = talk->word_ms;
	if (until == UINT64_MAX)
		return -1;
	uint64_t ms = until > now ? until - now : 0;
	return ms > INT_MAX ? INT_MAX : (int)ms;
}

static int wait_events(struct cow_talk *talk, short events)
{
	struct pollfd p = { .fd = talk->fd, .events = events };
	for (;;) {
		uint64_t now = cow_control_now_ms();
		if (now >= talk->deadline_ms)
			return -ETIMEDOUT;
		say_word(talk, now, NULL);
		int n = poll(&p, 1, slice_ms(talk, now));
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

int cow_talk_connect(struct cow_talk *talk, uint32_t id, pid_t pid, unsigned limit_ms)
{
	cow_talk_init(talk, -1, limit_ms);
	int n = snprintf(talk->whom, sizeof(talk->whom), "the daemon of /dev/ublkb%u", id);
	if (pid && n > 0 && (size_t)n < sizeof(talk->whom))
		snprintf(talk->whom + n, sizeof(talk->whom) - (size_t)n, " (process %d)", (int)pid);
	for (;;) {
		uint64_t now = cow_control_now_ms();
		talk->fd = cow_control_connect(id);
		if (talk->fd >= 0)
			return 0;
		if (talk->fd != -EAGAIN || now >= talk->deadline_ms)
			break;
		say_word(talk, now, NULL);
		nanosleep(&(struct timespec){ .tv_nsec = CONNECT_POLL_MS * 1000000l }, NULL);
	}
	int ret = talk->fd == -EAGAIN ? -ETIMEDOUT : talk->fd;
	talk->fd = -1;
	return ret;
}

/* ---- lines and bytes ---- */

static int send_all(struct cow_talk *talk, const char *buf, size_t bytes)
{
	restart_limit(talk);
	for (size_t done = 0; done < bytes;) {
		ssize_t n = send(talk->fd, buf + done, bytes - done, MSG_NOSIGNAL | MSG_DONTWAIT);
		int ret = n < 0 && errno == EAGAIN ? wait_events(talk, POLLOUT) : 0;
		if (ret || (n < 0 && errno != EINTR && errno != EAGAIN))
			return ret ? ret : -errno;
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

int cow_talk_send(struct cow_talk *talk, struct json_object *line)
{
	char *text = cow_control_line(line);
	if (!text)
		return -EMSGSIZE;
	int ret = send_all(talk, text, strlen(text));
	free(text);
	return ret;
}

/* One line without its newline; what follows it is left to be read. */
static int read_line(struct cow_talk *talk)
{
	talk->nr_line = 0;
	while (talk->nr_line < sizeof(talk->line)) {
		int ret = wait_events(talk, POLLIN);
		if (ret)
			return ret;
		char *at = talk->line + talk->nr_line;
		size_t room = sizeof(talk->line) - talk->nr_line;
		ssize_t n = recv(talk->fd, at, room, MSG_PEEK | MSG_DONTWAIT);
		char *end = n > 0 ? memchr(at, '\n', (size_t)n) : NULL;
		if (n > 0)
			n = recv(talk->fd, at, end ? (size_t)(end - at) + 1 : (size_t)n,
				 MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0)
			return n ? -errno : -ENODATA;
		talk->nr_line += (size_t)n;
		if (end) {
			*end = '\0';
			return 0;
		}
	}
	return -EMSGSIZE;
}

struct json_object *cow_talk_receive(struct cow_talk *talk, int *error)
{
	for (;;) {
		restart_limit(talk);
		*error = read_line(talk);
		if (*error)
			return NULL;
		struct json_object *line = json_tokener_parse(talk->line);
		if (!line || !json_object_is_type(line, json_type_object)) {
			json_object_put(line);
			*error = -EINVAL;
			return NULL;
		}
		const char *progress = cow_control_text(line, "progress", NULL);
		if (!progress)
			return line;
		if (!strcmp(progress, COW_CONTROL_CLOSING))
			talk->end_ms = UINT64_MAX; /* killed now, it would lose what it writes */
		say_word(talk, cow_control_now_ms(), progress);
		json_object_put(line);
	}
}

int cow_talk_receive_bytes(struct cow_talk *talk, void *buf, size_t bytes)
{
	restart_limit(talk);
	if (talk->deadline_ms != UINT64_MAX)
		talk->deadline_ms += bytes / 1024;
	for (size_t done = 0; done < bytes;) {
		int ret = wait_events(talk, POLLIN);
		if (ret)
			return ret;
		ssize_t n = recv(talk->fd, (char *)buf + done, bytes - done, MSG_DONTWAIT);
		if (!n)
			return -ENODATA;
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

int cow_talk_wait_end(struct cow_talk *talk)
{
	char rest[64];
	restart_limit(talk);
	for (;;) {
		int ret = wait_events(talk, POLLIN);
		if (ret)
			return ret;
		ssize_t n = recv(talk->fd, rest, sizeof(rest), MSG_DONTWAIT);
		if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
			return 0;
	}
}
