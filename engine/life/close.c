/* SPDX-License-Identifier: MIT */
/*
 * Closing: unused reservations return, everything is written back, the file ends behind the last
 * cluster in use. Order: frees go their usual way through the quarantine (refcounts fall durably);
 * then the file is cut.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/full.h"
#include "engine/base/math.h"
#include "engine/life/chain.h"
#include "engine/base/log.h"
#include "engine/check/check.h"
#include "engine/life/close.h"
#include "engine/life/image.h"
#include "engine/life/open.h"
#include "engine/loop/blocking.h"

/* A task that joins one pass. */
struct joiner {
	struct cow_task task;
	struct cow_image *image;
	bool done;
};

static enum cow_next close_joined(struct cow_task *task)
{
	return COW_END;
}

static const struct cow_step step_joined = { "close: joined", close_joined };

static enum cow_next close_join(struct cow_task *task)
{
	task->step = &step_joined;
	cow_commit_join(&((struct joiner *)task)->image->core.commit, task);
	return COW_WAIT;
}

static const struct cow_step step_join = { "close: join", close_join };

static void join_end(struct cow_task *task)
{
	((struct joiner *)task)->done = true;
}

int cow_image_write_back(struct cow_image *image, struct cow_loop *loop)
{
	struct joiner j = { .image = image };
	cow_task_init(&j.task, &step_joined, join_end);
	cow_task_start(&j.task, loop, &step_join);
	int ret = cow_loop_run_until(loop, &j.done);
	return ret ? ret : j.task.error;
}

/*
 * Until all that was freed is released. A full host cannot be waited for: what stays is leaked, and
 * said so.
 */
static int release_all(struct cow_image *image, struct cow_loop *loop)
{
	struct cow_quarantine *q = &image->quarantine;
	atomic_store(&q->closing, true);
	while (!cow_quarantine_idle(q) || !cow_commit_idle(&image->core.commit)) {
		atomic_store(&q->hurry, true);
		cow_quarantine_kick(q, loop);
		int ret = cow_loop_run(loop);
		if (ret)
			return ret;
	}
	return q->leaked ? -ENOSPC : 0;
}

/*
 * Index behind the last cluster with a refcount, reading the refcount blocks from the end; all of
 * them are on disk.
 */
static int last_used(struct cow_image *image, struct cow_loop *loop, uint64_t *end)
{
	const struct cow_geometry *g = &image->core.g;
	uint8_t *block = cow_buf_alloc(g->cluster_bytes);
	if (!block)
		return -ENOMEM;
	int ret = 0;
	*end = 0;
	for (uint64_t b = image->meta.reftable.nr; b-- > 0 && !*end && !ret;) {
		uint64_t off = cow_table_get(&image->meta.reftable, b);
		if (!off)
			continue;
		ret = cow_loop_read(loop, image->core.file, off, block, g->cluster_bytes);
		for (uint64_t i = g->refs_per_block; !ret && i-- > 0 && !*end;)
			if (cow_refcount_get(block, g->refcount_order, i))
				*end = b * g->refs_per_block + i + 1;
	}
	free(block);
	return ret;
}

/* Only what was extended in this session is cut off. */
static int cut_file(struct cow_image *image, struct cow_loop *loop)
{
	uint64_t end, opened = image->alloc.opened_bytes;
	if (image->core.file->block_device)
		return 0;
	if (image->alloc.file_bytes <= opened)
		return 0;
	int ret = last_used(image, loop, &end);
	/*
	 * Refcounts past the end (a broken image) are none of our clusters; nor may the shift
	 * overflow.
	 */
	if (ret || end >= image->alloc.file_bytes >> image->core.g.cluster_bits)
		return ret;
	uint64_t bytes = cow_max(end << image->core.g.cluster_bits, opened);
	if (bytes >= image->alloc.file_bytes)
		return 0;
	ret = cow_loop_resize(loop, image->core.file, bytes);
	return ret ? ret : cow_loop_sync(loop, image->core.file);
}

/*
 * The image itself is closed soundly whether this works or not; but who has it closed must hear of
 * it.
 */
static int store_bitmaps(struct cow_image *image, struct cow_loop *loop, struct cow_error *err)
{
	struct cow_error own = { 0 };
	int ret = cow_tracking_store(&image->tracking, loop, image->core.file, &own);
	if (cow_full_is(ret)) {
		own = (struct cow_error){ 0 };
		ret = cow_tracking_store_in_place(&image->tracking, &image->meta, loop, &own);
		if (!ret)
			cow_log(COW_LOG_WARNING,
				"%s: no room for its dirty bitmaps: they say more than what was "
				"changed",
				image->core.path);
	}
	return ret ? cow_error_set(err, ret,
				   "%s: the disk is whole, but its dirty bitmaps are inconsistent "
				   "now: remove them, and make "
				   "a full backup: %s",
				   image->core.path, own.text)
		   : 0;
}

/* As many extents as there are, whatever the ring holds at once. */
static int return_extents(struct cow_image *image, struct cow_loop *loop,
			  const struct cow_reserved *extents, unsigned nr)
{
	struct cow_quarantine *q = &image->quarantine;
	int ret = 0;
	for (unsigned i = 0; i < nr && !ret; i++) {
		if (!extents[i].nr)
			continue;
		/* nothing is released any more when the image has failed: what is left is leaked */
		while (!ret && !cow_quarantine_reserve(q, 1, 1))
			ret = cow_core_is_failed(&image->core) ? -EIO : release_all(image, loop);
		if (ret)
			break;
		cow_quarantine_add(q, extents[i].cluster, extents[i].nr);
		cow_quarantine_unreserve(q, 1);
	}
	return ret;
}

static int return_reservations(struct cow_image *image, struct cow_loop *loop)
{
	struct cow_alloc *alloc = &image->alloc;
	cow_mutex_alone(&image->queues_lock);
	int ret = return_extents(image, loop, image->left, image->nr_left);
	if (!ret)
		ret = return_extents(image, loop, alloc->spare, alloc->nr_spare);
	image->nr_left = 0;
	alloc->nr_spare = 0;
	return ret;
}

/* Of a process that died and was replayed. The image is sound whether this works or not. */
static void give_back_leaks(struct cow_image *image, struct cow_loop *loop)
{
	const struct cow_check_options options = { .repair = COW_REPAIR_LEAKS };
	struct cow_check_result result = { 0 };
	struct cow_error err = { 0 };
	if (!image->replayed)
		return;
	int ret = cow_check_file(loop, image->core.file, &options, &result, &err);
	if (ret)
		cow_log(COW_LOG_WARNING,
			"%s: leaked clusters of a daemon that died cannot be given back: %s: "
			"cowblk check --repair leaks does that",
			image->core.path, err.text);
	else
		cow_log(COW_LOG_INFO, "%s: gave %llu leaked clusters of a daemon that died back",
			image->core.path, (unsigned long long)result.leaks_fixed);
}

static int finish(struct cow_image *image, struct cow_loop *loop, struct cow_error *err)
{
	if (cow_core_is_failed(&image->core)) {
		release_all(image, loop);
		return -EIO;
	}
	int ret = return_reservations(image, loop);
	if (!ret)
		ret = cow_image_write_back(image, loop);
	if (!ret)
		ret = release_all(image, loop);
	if (!ret)
		ret = cow_image_write_back(image, loop);
	if (!ret)
		give_back_leaks(image, loop);
	if (!ret)
		ret = cut_file(image, loop);
	if (!ret && !cow_core_is_failed(&image->core))
		ret = store_bitmaps(image, loop, err);
	if (cow_core_is_failed(&image->core))
		return -EIO;
	if (!ret)
		cow_outlive_end(&image->meta.outlive);
	return ret;
}

static bool has_queues(struct cow_image *image)
{
	bool any = false;
	cow_mutex_lock(&image->queues_lock);
	for (unsigned i = 0; i < COW_MAX_QUEUES; i++)
		any |= image->queues[i] != NULL;
	cow_mutex_unlock(&image->queues_lock);
	return any;
}

int cow_image_close(struct cow_image *image, struct cow_loop *loop, struct cow_error *err)
{
	int ret = 0;
	if (!image)
		return 0;
	cow_assert(!has_queues(image) && !cow_gate_is_shut(&image->gate));
	if (image->core.writable) {
		ret = finish(image, loop, err);
		const char *failure = cow_core_failure(&image->core);
		if (ret)
			cow_error_set(err, ret, "%s: %s", image->core.path,
				      failure ? failure : strerror(-ret));
	}
	cow_image_free(image);
	return ret;
}
