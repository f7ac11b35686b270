/* SPDX-License-Identifier: MIT */
/* See compact.h. In this order: is it sound; the steps; what is left. */
#include "engine/edit/compact.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/math.h"
#include "engine/check/check.h"
#include "engine/core/load.h"
#include "engine/edit/compact_deflate.h"
#include "engine/edit/compact_squeeze.h"
#include "engine/edit/compact_step.h"
#include "engine/edit/compact_zeroes.h"
#include "engine/edit/edit_fault.h"
#include "engine/edit/edit_refcount.h"
#include "engine/loop/blocking.h"

/* A step that gains less of what there is to gain, or to move, is the last. */
#define WORTH 64u

/* ---- is it sound ---- */

/* An edit repairs what is dirty; leaks would stay in the way. */
static int make_sound(struct cow_loop *loop, struct cow_file *file,
		      const struct cow_compact_options *wanted, struct cow_error *err)
{
	const struct cow_check_options options = { .repair = COW_REPAIR_LEAKS };
	struct cow_check_result found = { 0 };
	struct cow_edit e;
	int ret = cow_edit_open_any(&e, loop, file, err);
	if (ret)
		return ret;
	if (wanted->compress)
		ret = cow_compact_deflate_verify(&e);
	cow_edit_close(&e);
	if (ret)
		return ret;
	ret = cow_check_file(loop, file, &options, &found, err);
	if (!ret && found.check_errors)
		ret = cow_error_set(err, -EIO, "%" PRIu64 " parts of it could not be checked",
				    found.check_errors);
	if (!ret && found.corruptions)
		ret = cow_error_set(err, -EINVAL,
				    "the image has %" PRIu64 " errors: repair it with cowblk "
				    "check --repair all",
				    found.corruptions);
	return ret;
}

/* ---- the steps ---- */

static int begin(struct cow_compact_step *s, struct cow_loop *loop, struct cow_file *file,
		 uint64_t *total_bytes, struct cow_error *err)
{
	int ret = cow_compact_step_open(s, loop, file, err);
	if (ret || *total_bytes)
		return ret;
	s->result->bytes_before = cow_max(s->result->bytes_before, s->end << s->e.g.cluster_bits);
	return cow_compact_step_total(s, total_bytes);
}

static int step(struct cow_compact_step *s, struct cow_loop *loop, struct cow_file *file,
		uint64_t *total_bytes, bool *more, struct cow_error *err)
{
	uint64_t gained;
	int ret = begin(s, loop, file, total_bytes, err);
	if (ret)
		return ret;
	uint64_t gap = s->end - cow_compact_step_least(s);
	s->total_bytes = *total_bytes;
	ret = cow_compact_step_run(s, &gained);
	*more = gained && gained >= cow_min(gap, cow_compact_step_clusters(s)) / WORTH;
	return ret;
}

static int steps(struct cow_loop *loop, struct cow_file *file,
		 const struct cow_compact_options *wanted, struct cow_compact_result *result,
		 struct cow_error *err)
{
	struct cow_compact_options options = *wanted;
	uint64_t total_bytes = 0;
	bool more = true;
	int ret = 0;
	while (!ret && more) {
		struct cow_compact_step s = { .options = &options, .result = result };
		ret = step(&s, loop, file, &total_bytes, &more, err);
		if (ret && cow_compact_step_smaller(&s, ret, &options)) {
			more = true;
			ret = 0;
		}
		cow_compact_step_close(&s);
	}
	return ret;
}

/* ---- what is left ---- */

static int punch(struct cow_compact_step *s, uint64_t first, uint64_t end)
{
	struct cow_edit *e = &s->e;
	int ret = cow_loop_punch(e->loop, e->file, first << e->g.cluster_bits,
				 (end - first) << e->g.cluster_bits);
	return ret == -EOPNOTSUPP || ret == -ENOTSUP ? 0 : ret;
}

/* Free clusters between those in use. */
static int punch_all(struct cow_compact_step *s)
{
	uint64_t first = 1, count;
	int ret = 0;
	for (uint64_t c = 1; c < s->end && !ret; c++) {
		ret = cow_edit_refcount(&s->e, c, &count);
		if (ret || !count)
			continue;
		if (first < c)
			ret = punch(s, first, c);
		first = c + 1;
	}
	return ret;
}

/* Room stays in use, nothing is lost: what was to be done is done, and the next time tries again. */
static void make_holes(struct cow_compact_step *s)
{
	int ret = s->e.file->can_punch ? punch_all(s) : 0;
	if (ret)
		cow_log(COW_LOG_WARNING, "%s: cannot give freed space back to the host: %s",
			s->e.file->path, strerror(-ret));
}

/* What a crash has left behind the last cluster, or who wrote it. */
static int cut_end(struct cow_compact_step *s)
{
	struct cow_file *file = s->e.file;
	uint64_t bytes = s->end << s->e.g.cluster_bits;
	if (file->block_device || file->size_bytes <= bytes)
		return 0;
	int ret = cow_loop_resize(s->e.loop, file, bytes);
	return ret ? cow_error_set(s->e.err, ret, "cannot cut the file: %s", strerror(-ret)) : 0;
}

static int finish(struct cow_loop *loop, struct cow_file *file,
		  const struct cow_compact_options *options, struct cow_compact_result *result,
		  struct cow_error *err)
{
	struct cow_compact_step s = { .options = options, .result = result };
	int ret = cow_compact_step_open(&s, loop, file, err);
	if (ret) {
		cow_compact_step_close(&s);
		return ret;
	}
	result->bytes_after = s.end << s.e.g.cluster_bits;
	result->left_bytes = (s.end - s.used) << s.e.g.cluster_bits;
	result->left_for = s.fixed > s.used ? s.fixed_as : NULL;
	ret = cut_end(&s);
	s.e.opened_bytes = file->size_bytes;
	if (!ret)
		make_holes(&s);
	if (!ret)
		ret = cow_edit_cannot_write(&s.e, cow_loop_sync(loop, file));
	cow_compact_step_close(&s);
	return ret;
}

int cow_compact(struct cow_loop *loop, struct cow_file *file,
		const struct cow_compact_options *options, struct cow_compact_result *result,
		struct cow_error *err)
{
	memset(result, 0, sizeof(*result));
	int ret = make_sound(loop, file, options, err);
	if (!ret && (options->zeroes || options->compress))
		ret = cow_compact_zeroes(loop, file, options, result, err);
	if (!ret && options->compress)
		ret = cow_compact_deflate(loop, file, options, result, err);
	if (!ret)
		ret = cow_compact_shorten_tables(loop, file, options, result, err);
	if (!ret)
		ret = steps(loop, file, options, result, err);
	if (!ret)
		ret = cow_compact_squeeze(loop, file, options, result, err);
	return ret ? ret : finish(loop, file, options, result, err);
}
