/* SPDX-License-Identifier: MIT */
#include "tests/interop/live.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/freeze.h"
#include "engine/snapshot.h"

static struct {
	pthread_t thread;
	struct cow_image *image;
	unsigned keep;
	atomic_bool stop;
	int serial, first; /* numbers in names go on from round to round */
	int error;
} live;

static int create(void *ctx, struct cow_loop *loop, struct cow_file *file, struct cow_error *err)
{
	struct cow_snapshot_date date = { .sec = 1 };
	return cow_snapshot_create(loop, file, ctx, &date, NULL, err);
}

static int delete(void *ctx, struct cow_loop *loop, struct cow_file *file, struct cow_error *err)
{
	struct cow_snapshot_key key = { .text = ctx, .by = COW_SNAPSHOT_BY_NAME };
	return cow_snapshot_delete(loop, file, &key, err);
}

static int once(struct cow_loop *loop)
{
	struct cow_error err = { 0 };
	uint64_t pause_ns;
	char name[32];
	snprintf(name, sizeof(name), "live%d", live.serial);
	int ret = cow_image_change_frozen(live.image, loop, create, name, &pause_ns, &err);
	if (!ret && live.serial >= (int)live.keep) {
		snprintf(name, sizeof(name), "live%d", live.serial - (int)live.keep);
		ret = cow_image_change_frozen(live.image, loop, delete, name, &pause_ns, &err);
	}
	if (ret)
		fprintf(stderr, "live snapshot: %s\n", err.text);
	else
		live.serial++;
	return ret;
}

static void *main_loop(void *arg)
{
	struct cow_loop *loop;
	live.error = cow_loop_sync_new(&loop);
	if (live.error)
		return NULL;
	while (!atomic_load(&live.stop) && !live.error) {
		live.error = once(loop);
		usleep(20000);
	}
	cow_loop_free(loop);
	return NULL;
}

void live_start(struct cow_image *image, unsigned keep)
{
	live.image = image;
	live.keep = keep;
	live.first = live.serial;
	live.error = 0;
	atomic_store(&live.stop, false);
	pthread_create(&live.thread, NULL, main_loop, NULL);
}

int live_stop(void)
{
	atomic_store(&live.stop, true);
	pthread_join(live.thread, NULL);
	return live.error ? live.error : live.serial - live.first;
}
