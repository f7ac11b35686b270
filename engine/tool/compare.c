/* SPDX-License-Identifier: MIT */
/* See compare.h. In this order: results; content; a piece. */
#include "engine/tool/compare.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/base/mutex.h"
#include "engine/tool/lane.h"

#define UNIT_BYTES (512u << 10)
#define SECTOR 512u

struct job {
	struct cow_compare *c;
	uint64_t bytes[2];
	struct cow_mutex_findings lock;
	struct cow_compare_result result COW_GUARDED_BY(findings);
};

struct comparer {
	struct cow_lane lanes[2];
	uint8_t *bufs[2];
};

static int enter(struct cow_walker *w)
{
	struct job *job = w->walk->ctx;
	struct comparer *x = w->state = calloc(1, sizeof(*x));
	int ret = x ? 0 : -ENOMEM;
	for (int i = 0; i < 2 && !ret; i++) {
		x->bufs[i] = cow_buf_alloc(UNIT_BYTES);
		ret = x->bufs[i] ? cow_lane_open(&x->lanes[i], job->c->disks[i], w->loop) : -ENOMEM;
	}
	return ret;
}

static void leave(struct cow_walker *w)
{
	struct comparer *x = w->state;
	for (int i = 0; x && i < 2; i++) {
		cow_lane_close(&x->lanes[i]);
		free(x->bufs[i]);
	}
	free(x);
}

/* ---- results ---- */

/* The first difference counts, whoever finds it. */
static void differ(struct cow_walker *w, enum cow_compare_verdict verdict, uint64_t off)
{
	struct job *job = w->walk->ctx;
	cow_mutex_lock(&job->lock);
	if (job->result.verdict == COW_COMPARE_SAME || off < job->result.offset) {
		job->result.verdict = verdict;
		job->result.offset = off;
	}
	cow_mutex_unlock(&job->lock);
	cow_walk_cut(w, off);
}

/* What cannot be had of a disk. */
enum want {
	WANT_MAP,
	WANT_CONTENT,
};

static int failed(struct cow_walker *w, int which, uint64_t off, enum want want, int ret)
{
	struct job *job = w->walk->ctx;
	cow_mutex_lock(&job->lock);
	if (job->result.failed < 0) {
		job->result.failed = which;
		job->result.failed_off = off;
		job->result.failed_map = want == WANT_MAP;
	}
	cow_mutex_unlock(&job->lock);
	return ret;
}

/* ---- content ---- */

static bool is_different(const uint8_t *a, const uint8_t *b, uint64_t bytes)
{
	return b ? memcmp(a, b, bytes) != 0 : !cow_lane_is_zero(a, bytes);
}

/* Of the first sector that differs; bytes: none does. b NULL: zeros. */
static uint64_t first_difference(const uint8_t *a, const uint8_t *b, uint64_t bytes)
{
	if (!is_different(a, b, bytes))
		return bytes;
	uint64_t at = 0;
	while (!is_different(a + at, b ? b + at : NULL, SECTOR))
		at += SECTOR;
	return at;
}

/* What reads as zeros in any case is not read. False: the piece is over. */
static int compare_content(struct cow_walker *w, uint64_t off, uint64_t bytes,
			   const struct cow_extent e[2], bool *same)
{
	struct comparer *x = w->state;
	const uint8_t *bufs[2] = { NULL, NULL };
	*same = true;
	for (int i = 0; i < 2; i++) {
		if (e[i].zero)
			continue;
		int ret = cow_lane_read(&x->lanes[i], off, bytes, x->bufs[i]);
		if (ret)
			return failed(w, i, off, WANT_CONTENT, ret);
		bufs[i] = x->bufs[i];
	}
	if (!bufs[0] && !bufs[1])
		return 0;
	uint64_t at =
		first_difference(bufs[0] ? bufs[0] : bufs[1], bufs[0] ? bufs[1] : NULL, bytes);
	*same = at == bytes;
	if (!*same)
		differ(w, COW_COMPARE_CONTENT, off + at);
	return 0;
}

/* ---- a piece ---- */

static int look(struct cow_walker *w, int i, uint64_t off, uint64_t bytes, struct cow_extent *e)
{
	struct job *job = w->walk->ctx;
	struct comparer *x = w->state;
	*e = (struct cow_extent){ .bytes = bytes, .zero = true };
	if (off >= job->bytes[i])
		return 0;
	int ret = cow_lane_extent(&x->lanes[i], off, cow_min(bytes, job->bytes[i] - off), e);
	return ret ? failed(w, i, off, WANT_MAP, ret) : 0;
}

static bool same_status(const struct cow_extent *a, const struct cow_extent *b)
{
	return a->zero == b->zero && a->data == b->data && a->allocated == b->allocated &&
	       a->plain == b->plain;
}

/* A run of zeros in both may be longer than the piece. */
static void skip(struct cow_walker *w, uint64_t end)
{
	uint64_t off, bytes;
	cow_walk_take(w, end, &off, &bytes);
}

/* From off on as much as both disks say the same of; *bytes of it. */
static int compare_run(struct cow_walker *w, uint64_t off, uint64_t end, uint64_t *bytes,
		       bool *same)
{
	const struct job *job = w->walk->ctx;
	struct cow_extent e[2];
	int ret = 0;
	for (int i = 0; i < 2 && !ret; i++)
		ret = look(w, i, off, w->walk->end - off, &e[i]);
	if (ret)
		return ret;
	uint64_t run = cow_min(e[0].bytes, e[1].bytes);
	*bytes = cow_min(run, end - off);
	*same = !job->c->strict || same_status(&e[0], &e[1]);
	if (!*same)
		differ(w, COW_COMPARE_STATUS, off);
	else if (!e[0].zero || !e[1].zero)
		ret = compare_content(w, off, *bytes, e, same);
	else if (run > *bytes)
		skip(w, off + run);
	return ret;
}

static int visit(struct cow_walker *w, uint64_t off, uint64_t bytes)
{
	uint64_t end = off + bytes, run = 0;
	bool same = true;
	int ret = 0;
	for (; off < end && same && !ret; off += run)
		ret = compare_run(w, off, end, &run, &same);
	return ret;
}

int cow_compare(struct cow_compare *c)
{
	struct job job = { .c = c,
			   .bytes = { cow_disk_bytes(c->disks[0]), cow_disk_bytes(c->disks[1]) } };
	struct cow_walk walk = {
		.end = cow_max(job.bytes[0], job.bytes[1]),
		.unit = UNIT_BYTES,
		.nr_threads = cow_walk_threads(),
		.cancel = c->cancel,
		.progress = c->progress,
		.ctx = &job,
		.enter = enter,
		.visit = visit,
		.leave = leave,
	};
	c->result = (struct cow_compare_result){ .verdict = COW_COMPARE_SAME, .failed = -1 };
	if (c->strict && job.bytes[0] != job.bytes[1]) {
		c->result.verdict = COW_COMPARE_SIZE;
		return 0;
	}
	cow_mutex_init(&job.lock, COW_RANK_WALK);
	job.result = c->result;
	int ret = cow_walk_run(&walk);
	cow_mutex_fini(&job.lock);
	c->result = job.result;
	return ret;
}
