/* SPDX-License-Identifier: MIT */
#include "tests/interop/live.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/life/live.h"
#include "engine/life/live_bitmap.h"
#include "engine/loop/loop_plain.h"
#include "engine/loop/loop_uring.h"

static struct {
	pthread_t thread;
	struct cow_image *image;
	unsigned keep;
	bool bitmaps;
	atomic_bool stop;
	int serial, first; /* numbers in names go on from round to round */
	int error;
} live;

static int change(struct cow_loop *loop, enum cow_live_what what, int serial)
{
	struct cow_error err = { 0 };
	char name[32];
	struct cow_live_snapshot s = { .what = what,
				       .key = { .text = name, .by = COW_SNAPSHOT_BY_NAME } };
	snprintf(name, sizeof(name), "live%d", serial);
	int ret = cow_image_change_snapshot(live.image, loop, &s, &err);
	if (ret)
		fprintf(stderr, "live snapshot: %s\n", err.text);
	free(s.id);
	return ret;
}

static int once(struct cow_loop *loop)
{
	int ret = change(loop, COW_LIVE_CREATE, live.serial);
	if (!ret && live.serial >= (int)live.keep)
		ret = change(loop, COW_LIVE_DELETE, live.serial - (int)live.keep);
	live.serial += !ret;
	return ret;
}

static int change_bitmap(struct cow_loop *loop, enum cow_bitmap_command command, int serial)
{
	struct cow_error err = { 0 };
	char name[32], source[32];
	const char *sources[] = { source };
	const struct cow_bitmap_change change = { .command = command,
						  .name = name,
						  .sources = sources,
						  .nr_sources = 1,
						  .granularity_bits = 9 + (unsigned)serial % 10 };
	snprintf(name, sizeof(name), "live%d", serial);
	snprintf(source, sizeof(source), "live%d", serial - 1);
	int ret = cow_image_change_bitmaps(live.image, loop, &change, NULL, &err);
	if (ret)
		fprintf(stderr, "live bitmap: %s\n", err.text);
	return ret;
}

static int once_bitmaps(struct cow_loop *loop)
{
	int serial = live.serial;
	int ret = change_bitmap(loop, COW_BITMAP_ADD, serial);
	if (!ret && serial)
		ret = change_bitmap(loop, serial % 3 ? COW_BITMAP_MERGE : COW_BITMAP_CLEAR, serial);
	if (!ret && serial > 2)
		ret = change_bitmap(loop, COW_BITMAP_REMOVE, serial - 3);
	live.serial += !ret;
	return ret;
}

static void *main_loop(void *arg)
{
	struct cow_loop *loop;
	live.error = live.bitmaps ? cow_loop_plain_new(&loop) : cow_loop_uring_new(64, &loop);
	if (live.error)
		return NULL;
	while (!atomic_load(&live.stop) && !live.error) {
		live.error = live.bitmaps ? once_bitmaps(loop) : once(loop);
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

void live_start_bitmaps(struct cow_image *image)
{
	live.bitmaps = true;
	live_start(image, 0);
}

int live_stop(void)
{
	atomic_store(&live.stop, true);
	pthread_join(live.thread, NULL);
	return live.error ? live.error : live.serial - live.first;
}
