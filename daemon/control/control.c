/* SPDX-License-Identifier: MIT */
#include "daemon/control/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "daemon/control/record.h"

/* Connections that wait to be accepted; the kernel has a limit of its own (net.core.somaxconn). */
#define BACKLOG 128
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
	/* The socket's mode, less the umask, is the file's from the start; then without the umask. */
	int ret = fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ? -errno : 0;
	if (!ret && chmod(addr.sun_path, 0600))
		ret = -errno;
	if (!ret && listen(fd, BACKLOG))
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
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (!connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return fd;
	int ret = -errno;
	close(fd);
	if ((ret == -ECONNREFUSED || ret == -ENOENT) && cow_record_is_supervised(id))
		ret = -EAGAIN;
	return ret;
}

bool cow_control_answers(uint32_t id)
{
	int fd = cow_control_connect(id);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

bool cow_control_is_dead(uint32_t id)
{
	int fd = cow_control_connect(id);
	if (fd >= 0)
		close(fd);
	return fd == -ECONNREFUSED || fd == -ENOENT;
}

char *cow_control_line(struct json_object *line)
{
	char *text;
	int len = asprintf(&text, "%s\n", json_object_to_json_string_ext(line, JSON_FLAGS));
	json_object_put(line);
	if (len < 0)
		return NULL;
	if (len >= COW_CONTROL_LINE_BYTES) {
		free(text);
		return NULL;
	}
	return text;
}

uint64_t cow_control_now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
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
