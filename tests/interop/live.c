/* SPDX-License-Identifier: MIT */
#include "tests/interop/live.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/life/freeze.h"
#include "engine/snapshot/snapshot.h"
#include "engine/bitmap/tracking.h"

static struct {
	pthread_t thread;
	struct cow_image *image;
	unsigned keep;
	bool bitmaps;
	atomic_bool stop;
	int serial, first; /* numbers in names go on from round to round */
	int error;
} live;

static int create(void *ctx, struct cow_loop *loop, struct cow_file *file, struct cow_error *err)
{
	struct cow_snapshot_date date = { .sec = 1 };
	return cow_snapshot_create(loop, file, ctx, &date, NULL, err);
}

static int delete (void *ctx, struct cow_loop *loop, struct cow_file *file, struct cow_error *err)
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
	live.error = cow_loop_sync_new(&loop);
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
