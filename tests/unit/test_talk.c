/* SPDX-License-Identifier: MIT */
/* How long a client waits for a daemon that says what it is at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "daemon/control/talk.h"

#define END_MS 100
#define ANSWER_MS 400

struct daemon {
	int fd;
	const char *doing;
};

static void say(int fd, const char *key, const char *text)
{
	struct json_object *o = json_object_new_object();
	struct cow_talk talk;
	json_object_object_add(o, key, json_object_new_string(text));
	cow_talk_init(&talk, fd, 1000);
	COW_IGNORE(cow_talk_send(&talk, o));
}

static void *serve(void *arg)
{
	const struct daemon *daemon = arg;
	say(daemon->fd, "progress", daemon->doing);
	nanosleep(&(struct timespec){ .tv_nsec = ANSWER_MS * 1000000l }, NULL);
	say(daemon->fd, "answer", "");
	return NULL;
}

/* The error of a client that gives all of it END_MS. */
static int ask(const char *doing)
{
	int fds[2], error;
	struct cow_talk talk;
	pthread_t thread;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	struct daemon daemon = { fds[1], doing };
	cow_talk_init(&talk, fds[0], 10000);
	talk.end_ms = cow_control_now_ms() + END_MS;
	assert_int_equal(pthread_create(&thread, NULL, serve, &daemon), 0);
	json_object_put(cow_talk_receive(&talk, &error));
	pthread_join(thread, NULL);
	close(fds[0]);
	close(fds[1]);
	return error;
}

static void test_limit(void **state)
{
	assert_int_equal(ask("stopping the device"), -ETIMEDOUT);
}

static void test_close_has_no_limit(void **state)
{
	assert_int_equal(ask(COW_CONTROL_CLOSING), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_close_has_no_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
