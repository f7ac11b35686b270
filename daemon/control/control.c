/* SPDX-License-Identifier: MIT */
#include "daemon/control/control.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/control/record.h"

#define MAX_LINE_BYTES 4096
#define JSON_FLAGS (JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)

static void make_addr(uint32_t id, struct sockaddr_un *addr)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	cow_record_path(id, "sock", addr->sun_path, sizeof(addr->sun_path));
}

int cow_control_listen(uint32_t id)
{
	struct sockaddr_un addr;
	make_addr(id, &addr);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	unlink(addr.sun_path); /* the id is ours, so whoever left it is gone */
	mode_t old = umask(0177);
	int ret = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ? -errno : 0;
	umask(old);
	if (!ret && listen(fd, 8))
		ret = -errno;
	if (!ret)
		return fd;
	close(fd);
	return ret;
}

int cow_control_connect(uint32_t id)
{
	struct sockaddr_un addr;
	make_addr(id, &addr);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (!connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return fd;
	int ret = -errno;
	close(fd);
	return ret;
}

int cow_control_send_bytes(int fd, const void *buf, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t n = send(fd, (const char *)buf + done, bytes - done, MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

int cow_control_receive_bytes(int fd, void *buf, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t n = recv(fd, (char *)buf + done, bytes - done, 0);
		if (!n)
			return -ENODATA;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

int cow_control_send(int fd, struct json_object *line)
{
	char text[MAX_LINE_BYTES];
	int len = snprintf(text, sizeof(text), "%s\n",
			   json_object_to_json_string_ext(line, JSON_FLAGS));
	json_object_put(line);
	if (len < 0 || (size_t)len >= sizeof(text))
		return -EMSGSIZE;
	return cow_control_send_bytes(fd, text, (size_t)len);
}

static int wait_readable(int fd, int timeout_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int n;
	do
		n = poll(&p, 1, timeout_ms);
	while (n < 0 && errno == EINTR);
	return n > 0 ? 0 : n ? -errno : -ETIMEDOUT;
}

/*
 * One line without its newline; what follows it is left to be read. The timeout is for each piece,
 * the pieces are bounded by the buffer.
 */
static int read_line(int fd, int timeout_ms, char *text, size_t size)
{
	size_t len = 0;
	while (len < size) {
		int ret = wait_readable(fd, timeout_ms);
		if (ret)
			return ret;
		ssize_t n = recv(fd, text + len, size - len, MSG_PEEK);
		char *end = n > 0 ? memchr(text + len, '\n', (size_t)n) : NULL;
		if (n > 0)
			n = recv(fd, text + len, end ? (size_t)(end - (text + len)) + 1 : (size_t)n,
				 0);
		if (n <= 0)
			return n ? -errno : -ENODATA;
		len += (size_t)n;
		if (end) {
			*end = '\0';
			return 0;
		}
	}
	return -EMSGSIZE;
}

struct json_object *cow_control_receive(int fd, int timeout_ms, int *error)
{
	char text[MAX_LINE_BYTES];
	*error = read_line(fd, timeout_ms, text, sizeof(text));
	if (*error)
		return NULL;
	struct json_object *line = json_tokener_parse(text);
	if (line && json_object_is_type(line, json_type_object))
		return line;
	json_object_put(line);
	*error = -EINVAL;
	return NULL;
}

void cow_control_wait_end(int fd)
{
	char rest[64];
	while (!wait_readable(fd, -1) && recv(fd, rest, sizeof(rest), 0) > 0)
		;
}

struct json_object *cow_control_ok(void)
{
	struct json_object *reply = json_object_new_object();
	json_object_object_add(reply, "ok", json_object_new_boolean(true));
	return reply;
}

struct json_object *cow_control_error(const char *text)
{
	struct json_object *reply = json_object_new_object();
	json_object_object_add(reply, "ok", json_object_new_boolean(false));
	json_object_object_add(reply, "error", json_object_new_string(text));
	return reply;
}

const char *cow_control_text(struct json_object *line, const char *key, const char *otherwise)
{
	struct json_object *v;
	if (!json_object_object_get_ex(line, key, &v) || !json_object_is_type(v, json_type_string))
		return otherwise;
	return json_object_get_string(v);
}

const char *cow_control_reply_error(struct json_object *reply)
{
	struct json_object *v;
	if (json_object_object_get_ex(reply, "ok", &v) && json_object_get_boolean(v))
		return NULL;
	return cow_control_text(reply, "error", "no reason given");
}

uint64_t cow_control_number(struct json_object *o, const char *key)
{
	struct json_object *value;
	return json_object_object_get_ex(o, key, &value) ? json_object_get_uint64(value) : 0;
}
