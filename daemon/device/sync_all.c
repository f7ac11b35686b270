/* SPDX-License-Identifier: MIT */
#include "daemon/device/sync_all.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void *sync_all(void *arg)
{
	sync();
	return NULL;
}

int cow_sync_all(unsigned limit_s, struct cow_error *err)
{
	pthread_t thread;
	struct timespec until;
	int ret = -pthread_create(&thread, NULL, sync_all, NULL);
	if (ret)
		return cow_error_set(err, ret, "cannot start a thread: %s", strerror(-ret));
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += limit_s;
	if (!pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until))
		return 0;
	pthread_detach(thread);
	return cow_error_set(err, -ETIMEDOUT, "not within %u s", limit_s);
}
