/* SPDX-License-Identifier: MIT */
/*
 * A piece is cut into grains, the units that the target stores: clusters, or some sectors of a raw
 * file. What is to be done with each is found out first by the source's mapping, then by its content.
 */
#include "engine/tool/convert.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/base/mutex.h"
#include "engine/tool/disk_state.h"

#define UNIT_BYTES (1u << 20)
#define RAW_GRAIN_BYTES 4096u
#define CLONE_ALIGN 4096u

enum grain {
	GRAIN_NEW,  /* nothing is known yet */
	GRAIN_ZERO, /* reads as zeros */
	GRAIN_KEEP, /* the target shows it without being written */
	GRAIN_DATA, /* to be read */
	GRAIN_LOST, /* cannot be read: what stands for it is written */
};

enum side {
	SIDE_SOURCE,
	SIDE_TARGET,
};

struct job {
	struct cow_convert *c;
	uint32_t unit, grain;
	struct cow_mutex_findings lock;
	bool failed COW_GUARDED_BY(findings);
	bool failed_source COW_GUARDED_BY(findings);
	uint64_t failed_off COW_GUARDED_BY(findings);
	atomic_bool no_clone, no_offload;
};

struct copier {
	struct cow_concat_lane source;
	struct cow_lane target;
	uint8_t *buf;	 /* a unit */
	uint8_t *grains; /* enum grain of each grain of the piece */
};

static int enter(struct cow_walker *w)
{
	struct job *job = w->walk->ctx;
	struct copier *x = w->state = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	x->buf = cow_buf_alloc(job->unit);
	x->grains = malloc(job->unit / job->grain);
	int ret = x->buf && x->grains ? 0 : -ENOMEM;
	if (!ret)
		ret = cow_concat_lane_open(&x->source, job->c->source, w->loop);
	if (!ret)
		ret = cow_lane_open(&x->target, job->c->target, w->loop);
	return ret;
}

static void leave(struct cow_walker *w)
{
	struct copier *x = w->state;
	if (!x)
		return;
	cow_lane_close(&x->target);
	cow_concat_lane_close(&x->source);
	free(x->grains);
	free(x->buf);
	free(x);
}

static int failed(struct cow_walker *w, enum side side, uint64_t off, int ret)
{
	struct job *job = w->walk->ctx;
	cow_mutex_lock(&job->lock);
	if (!job->failed) {
		job->failed = true;
		job->failed_source = side == SIDE_SOURCE;
		job->failed_off = off;
	}
	cow_mutex_unlock(&job->lock);
	return ret;
}

/* ---- what the mapping says ---- */

static enum grain grain_of(const struct cow_convert *c, uint64_t off, const struct cow_extent *e)
{
	bool below = !e->allocated || e->depth >= c->shared_depth;
	if (c->has_backing && below && off < c->reach)
		return GRAIN_KEEP;
	if (!c->sparse_bytes)
		return GRAIN_DATA;
	return e->zero ? GRAIN_ZERO : GRAIN_DATA;
}

/* A grain that is mixed is read. */
static void mark(struct copier *x, const struct job *job, uint64_t from, uint64_t to,
		 enum grain kind)
{
	cow_assert(from <= to && to <= job->unit);
	for (uint64_t i = from / job->grain; i * job->grain < to; i++) {
		bool same = x->grains[i] == GRAIN_NEW || x->grains[i] == (uint8_t)kind;
		x->grains[i] = same ? (uint8_t)kind : GRAIN_DATA;
	}
}

static int put_zeros(struct cow_walker *w, uint64_t off, uint64_t bytes)
{
	struct job *job = w->walk->ctx;
	const struct cow_convert *c = job->c;
	struct copier *x = w->state;
	uint64_t shown = cow_round_up(c->backing_bytes, job->grain);
	if (c->target_is_zero && (!c->has_backing || off >= shown))
		return 0;
	if (c->target_is_zero)
		bytes = cow_min(bytes, shown - off);
	int ret = cow_lane_zero(&x->target, off, bytes);
	return ret ? failed(w, SIDE_TARGET, off, ret) : 0;
}

/* The run goes on behind the piece: what of it nobody has begun with is done at once. */
static int do_ahead(struct cow_walker *w, uint64_t upto, enum grain kind)
{
	uint64_t off, bytes;
	if (kind == GRAIN_DATA || kind == GRAIN_LOST || !cow_walk_take(w, upto, &off, &bytes))
		return 0;
	return kind == GRAIN_ZERO ? put_zeros(w, off, bytes) : 0;
}

/* The mapping cannot be read: what it is, is not to be known. What is behind the piece is, too. */
static int look_lost(struct cow_walker *w, uint64_t off, uint64_t bytes, enum grain *kind)
{
	struct job *job = w->walk->ctx;
	struct cow_salvage *s = job->c->salvage;
	*kind = s->mark || !job->c->sparse_bytes ? GRAIN_LOST : GRAIN_ZERO;
	return cow_salvage_note(s, off, bytes);
}

/* ---- the host copies ---- */

static struct cow_file_range range_of(const struct job *job, const struct cow_extent *e,
				      uint64_t off, uint64_t bytes)
{
	return (struct cow_file_range){ .from = e->file,
					.to = job->c->target->file,
					.from_off = e->host_off,
					.to_off = off,
					.bytes = bytes };
}

/* Both are one file's blocks from then on: no space, no time. */
static bool clone_range(struct job *job, const struct cow_extent *e, uint64_t off, uint64_t bytes)
{
	if (atomic_load(&job->no_clone) || e->host_off % CLONE_ALIGN || off % CLONE_ALIGN ||
	    bytes % CLONE_ALIGN)
		return false;
	const struct cow_file_range range = range_of(job, e, off, bytes);
	int (*clone)(const struct cow_file_range *) = range.to->host->ops->clone;
	if (clone && !clone(&range))
		return true;
	atomic_store(&job->no_clone, true);
	return false;
}

static bool offload(struct job *job, const struct cow_extent *e, uint64_t off, uint64_t bytes)
{
	const struct cow_file_range range = range_of(job, e, off, bytes);
	int (*copy)(const struct cow_file_range *) = range.to->host->ops->copy;
	if (!job->c->offload || job->c->rate || !copy || atomic_load(&job->no_offload))
		return false;
	int ret = copy(&range);
	if (ret && ret != -ENODATA) /* that is the end of the file, and of this range only */
		atomic_store(&job->no_offload, true);
	return !ret;
}

/* False: it is to be read and written. */
static bool copied_by_host(struct job *job, const struct cow_extent *e, uint64_t off,
			   uint64_t bytes)
{
	if (!e->file || !job->c->target->file || job->c->salvage)
		return false; /* blocks that are shared are not read */
	if (!clone_range(job, e, off, bytes) && !offload(job, e, off, bytes))
		return false;
	cow_file_grown(job->c->target->file, off + bytes);
	return true;
}

/* ---- a piece ---- */

static int look(struct cow_walker *w, uint64_t start, uint64_t bytes)
{
	struct job *job = w->walk->ctx;
	struct copier *x = w->state;
	uint64_t off = start, end = start + bytes;
	int ret = 0;
	memset(x->grains, GRAIN_NEW, job->unit / job->grain);
	while (off < end && !ret) {
		struct cow_extent e;
		ret = cow_concat_lane_extent(&x->source, off, w->walk->end - off, &e);
		bool lost = job->c->salvage && cow_salvage_takes(ret);
		enum grain kind = GRAIN_DATA;
		if (lost)
			ret = look_lost(w, off, e.bytes, &kind);
		else if (!ret)
			kind = grain_of(job->c, off, &e);
		if (ret)
			return failed(w, SIDE_SOURCE, off, ret);
		uint64_t here = cow_min(e.bytes, end - off);
		if (kind == GRAIN_KEEP && off + here > job->c->reach)
			here = e.bytes = job->c->reach - off;
		if (kind == GRAIN_DATA && copied_by_host(job, &e, off, here))
			mark(x, job, off - start, off - start + here, GRAIN_KEEP);
		else
			mark(x, job, off - start, off - start + here, kind);
		if (e.bytes > here)
			ret = do_ahead(w, off + e.bytes, kind);
		off += here;
	}
	return ret;
}

/* Grains of one kind from i on, of a piece of nr. */
static unsigned run_of(const uint8_t *grains, unsigned i, unsigned nr)
{
	unsigned n = 1;
	while (i + n < nr && grains[i + n] == grains[i])
		n++;
	return n;
}

/*
 * What was read as data and is zeros becomes so, in runs that are long enough. Runs that touch what the
 * mapping says are zeros may be short.
 */
static void find_zeros(struct copier *x, const struct job *job, unsigned first, unsigned nr,
		       uint64_t bytes)
{
	uint64_t sparse = job->c->sparse_bytes;
	unsigned zeros = 0;
	if (!sparse)
		return;
	for (unsigned i = first; i <= first + nr; i++) {
		uint64_t at = (uint64_t)i * job->grain;
		bool zero = i < first + nr &&
			    cow_lane_is_zero(x->buf + at, cow_min(job->grain, bytes - at));
		if (zero) {
			zeros++;
			continue;
		}
		bool whole = zeros == nr;
		if ((uint64_t)zeros * job->grain >= sparse || whole)
			memset(x->grains + i - zeros, GRAIN_ZERO, zeros);
		zeros = 0;
	}
}

static int read_run(struct job *job, struct copier *x, uint64_t off, uint64_t bytes, uint8_t *buf)
{
	struct cow_salvage *s = job->c->salvage;
	return s ? cow_salvage_read(s, &x->source, off, bytes, buf)
		 : cow_concat_lane_read(&x->source, off, bytes, buf);
}

static int read_data(struct cow_walker *w, uint64_t start, uint64_t bytes, unsigned nr)
{
	struct job *job = w->walk->ctx;
	struct copier *x = w->state;
	for (unsigned i = 0, n; i < nr; i += n) {
		n = run_of(x->grains, i, nr);
		uint64_t at = (uint64_t)i * job->grain;
		uint64_t len = cow_min((uint64_t)n * job->grain, bytes - at);
		if (x->grains[i] == GRAIN_LOST) {
			cow_salvage_fill(job->c->salvage, start + at, len, x->buf + at);
			memset(x->grains + i, GRAIN_DATA, n);
			continue;
		}
		if (x->grains[i] != GRAIN_DATA)
			continue;
		int ret = read_run(job, x, start + at, len, x->buf + at);
		if (ret)
			return failed(w, SIDE_SOURCE, start + at, ret);
		find_zeros(x, job, i, n, bytes);
	}
	return 0;
}

static int write_data(struct cow_walker *w, uint64_t start, uint64_t bytes, unsigned nr)
{
	struct job *job = w->walk->ctx;
	struct copier *x = w->state;
	int ret = 0;
	for (unsigned i = 0, n; i < nr && !ret; i += n) {
		n = run_of(x->grains, i, nr);
		uint64_t at = (uint64_t)i * job->grain;
		uint64_t len = cow_min((uint64_t)n * job->grain, bytes - at);
		if (x->grains[i] == GRAIN_ZERO)
			ret = put_zeros(w, start + at, len);
		if (x->grains[i] != GRAIN_DATA)
			continue;
		ret = cow_rate_wait(job->c->rate, len, w->loop);
		if (ret)
			return ret;
		ret = cow_lane_write(&x->target, start + at, len, x->buf + at);
		if (ret)
			failed(w, SIDE_TARGET, start + at, ret);
	}
	return ret;
}

static int visit(struct cow_walker *w, uint64_t off, uint64_t bytes)
{
	struct job *job = w->walk->ctx;
	unsigned nr = (unsigned)((bytes + job->grain - 1) / job->grain);
	cow_assert(nr <= job->unit / job->grain);
	int ret = look(w, off, bytes);
	if (!ret)
		ret = read_data(w, off, bytes, nr);
	if (!ret)
		ret = write_data(w, off, bytes, nr);
	return ret;
}

/* ---- all ---- */

static uint32_t grain_bytes(const struct cow_convert *c)
{
	if (c->exact)
		return 512;
	if (c->target->image)
		return cow_disk_cluster_bytes(c->target);
	return c->sparse_bytes && c->sparse_bytes < RAW_GRAIN_BYTES ? 512 : RAW_GRAIN_BYTES;
}

int cow_convert(struct cow_convert *c)
{
	struct job job = { .c = c, .grain = grain_bytes(c) };
	job.unit = (uint32_t)cow_max(UNIT_BYTES, job.grain);
	struct cow_walk walk = {
		.end = cow_concat_bytes(c->source),
		.unit = job.unit,
		.nr_threads = c->nr_threads,
		.loop = c->loop,
		.cancel = c->cancel,
		.progress = c->progress,
		.ctx = &job,
		.enter = enter,
		.visit = visit,
		.leave = leave,
	};
	cow_mutex_init(&job.lock, COW_RANK_WALK);
	int ret = cow_walk_run(&walk);
	cow_mutex_fini(&job.lock);
	c->failed_source = job.failed_source;
	c->failed_off = job.failed_off;
	return ret;
}
