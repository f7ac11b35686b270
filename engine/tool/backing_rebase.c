/* SPDX-License-Identifier: MIT */
/* See backing_rebase.h. In this order: the new base; what is taken over; opening. */
#include "engine/tool/backing_rebase.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/base/mutex.h"
#include "engine/format/reference.h"
#include "engine/edit/edit_backing.h"
#include "engine/tool/chain_level.h"
#include "engine/tool/lane.h"

#define UNIT_BYTES (1u << 20)

struct rebase {
	const struct cow_backing_rebase *r;
	struct cow_host *host;
	struct cow_loop *loop;
	struct cow_disk *image, *base; /* base NULL: none */
	uint32_t cluster, unit;
	/* where the image's chain leads to the new base: what is there or below stays visible */
	unsigned shared_depth;
	uint64_t reach;
	struct cow_mutex_findings lock;
	bool failed COW_GUARDED_BY(findings);
	const char *failed_what COW_GUARDED_BY(findings);
	uint64_t failed_off COW_GUARDED_BY(findings);
};

struct worker {
	struct cow_lane image, base;
	uint8_t *old, *new;
};

static int enter(struct cow_walker *w)
{
	struct rebase *m = w->walk->ctx;
	struct worker *x = w->state = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	x->old = cow_buf_alloc(m->unit);
	x->new = cow_buf_alloc(m->unit);
	int ret = x->old && x->new ? 0 : -ENOMEM;
	if (!ret)
		ret = cow_lane_open(&x->image, m->image, w->loop);
	if (!ret && m->base)
		ret = cow_lane_open(&x->base, m->base, w->loop);
	return ret;
}

static void leave(struct cow_walker *w)
{
	struct worker *x = w->state;
	if (!x)
		return;
	cow_lane_close(&x->base);
	cow_lane_close(&x->image);
	free(x->new);
	free(x->old);
	free(x);
}

static int failed(struct cow_walker *w, const char *what, uint64_t off, int ret)
{
	struct rebase *m = w->walk->ctx;
	cow_mutex_lock(&m->lock);
	if (!m->failed) {
		m->failed = true;
		m->failed_what = what;
		m->failed_off = off;
	}
	cow_mutex_unlock(&m->lock);
	return ret;
}

/* ---- the new base ---- */

/* What it will show from off on; behind its end zeros. */
static int look_base(struct cow_walker *w, uint64_t off, uint64_t bytes, struct cow_extent *e)
{
	struct rebase *m = w->walk->ctx;
	struct worker *x = w->state;
	uint64_t end = m->base ? cow_disk_bytes(m->base) : 0;
	*e = (struct cow_extent){ .bytes = bytes, .zero = true };
	if (off >= end)
		return 0;
	int ret = cow_lane_extent(&x->base, off, cow_min(bytes, end - off), e);
	return ret ? failed(w, "read the new backing file", off, ret) : 0;
}

static int read_both(struct cow_walker *w, uint64_t off, uint64_t bytes, bool old_zero,
		     bool new_zero)
{
	struct worker *x = w->state;
	int ret = 0;
	if (old_zero)
		memset(x->old, 0, bytes);
	else
		ret = cow_lane_read(&x->image, off, bytes, x->old);
	if (ret)
		return failed(w, "read", off, ret);
	if (new_zero)
		memset(x->new, 0, bytes);
	else
		ret = cow_lane_read(&x->base, off, bytes, x->new);
	return ret ? failed(w, "read the new backing file", off, ret) : 0;
}

/* ---- what is taken over ---- */

static int take_over(struct cow_walker *w, uint64_t off, const uint8_t *old, uint64_t bytes)
{
	struct worker *x = w->state;
	int ret = cow_lane_is_zero(old, bytes) ? cow_lane_zero(&x->image, off, bytes)
					       : cow_lane_write(&x->image, off, bytes, old);
	return ret ? failed(w, "write", off, ret) : 0;
}

/* In units of the image's clusters: what differs in a part is taken over whole. */
static int take_differences(struct cow_walker *w, uint64_t off, uint64_t bytes)
{
	struct rebase *m = w->walk->ctx;
	struct worker *x = w->state;
	int ret = 0;
	for (uint64_t at = 0, n; at < bytes && !ret; at += n) {
		n = cow_min(m->cluster - ((off + at) & (m->cluster - 1)), bytes - at);
		if (memcmp(x->old + at, x->new + at, n))
			ret = take_over(w, off + at, x->old + at, n);
	}
	return ret;
}

/* Does the image show a backing file's content there that will be gone? */
static bool shows_old(const struct rebase *m, uint64_t off, const struct cow_extent *e)
{
	bool below = !e->allocated || e->depth > 0;
	bool stays = (!e->allocated || e->depth >= m->shared_depth) && off < m->reach;
	return below && !stays;
}

static int rebase_run(struct cow_walker *w, uint64_t off, uint64_t end, uint64_t *bytes)
{
	struct rebase *m = w->walk->ctx;
	struct worker *x = w->state;
	struct cow_extent old, new;
	uint64_t run, taken_off, taken;
	int ret = cow_lane_extent(&x->image, off, w->walk->end - off, &old);
	if (ret)
		return failed(w, "read", off, ret);
	run = old.bytes;
	if (off < m->reach)
		run = cow_min(run, m->reach - off);
	bool same = !shows_old(m, off, &old);
	if (!same) {
		ret = look_base(w, off, run, &new);
		run = cow_min(run, new.bytes);
		same = old.zero && new.zero;
	}
	*bytes = cow_min(run, end - off);
	if (ret)
		return ret;
	if (same) {
		if (run > *bytes)
			cow_walk_take(w, off + run, &taken_off, &taken);
		return 0;
	}
	ret = read_both(w, off, *bytes, old.zero, new.zero);
	return ret ? ret : take_differences(w, off, *bytes);
}

static int visit(struct cow_walker *w, uint64_t off, uint64_t bytes)
{
	uint64_t end = off + bytes, run = 0;
	int ret = 0;
	for (; off < end && !ret; off += run)
		ret = rebase_run(w, off, end, &run);
	return ret;
}

static int take_all(struct rebase *m, struct cow_error *err)
{
	struct cow_walk walk = {
		.end = cow_disk_bytes(m->image),
		.unit = m->unit,
		.nr_threads = m->r->nr_threads,
		.loop = m->loop,
		.cancel = m->r->cancel,
		.progress = m->r->progress,
		.ctx = m,
		.enter = enter,
		.visit = visit,
		.leave = leave,
	};
	cow_mutex_init(&m->lock, COW_RANK_WALK);
	int ret = cow_walk_run(&walk);
	cow_mutex_fini(&m->lock);
	if (ret == -ECANCELED)
		return cow_error_set(err, ret, "interrupted: the backing file is the old one");
	if (ret && m->failed)
		cow_error_set(err, ret, "cannot %s at offset %" PRIu64 ": %s", m->failed_what,
			      m->failed_off, strerror(-ret));
	return ret;
}

/* ---- opening ---- */

static int open_base(struct rebase *m, struct cow_error *err)
{
	const struct cow_backing_rebase *r = m->r;
	struct cow_disk_spec spec = *r->image;
	uint64_t dev, ino;
	if (!r->base)
		return 0;
	char *path = cow_reference_resolve(m->r->image->path, r->base);
	if (!path)
		return cow_error_no_memory(err);
	spec.path = path;
	spec.format = !strcmp(r->format, "raw") ? COW_DISK_RAW : COW_DISK_QCOW2;
	int ret = cow_disk_open(m->host, m->loop, &spec, &m->base, err);
	if (ret)
		cow_error_prefix(err, "the new backing file");
	free(path);
	if (ret)
		return ret;
	cow_disk_identity(m->base, &dev, &ino);
	int depth = cow_disk_find_level(m->image, dev, ino, &m->reach);
	m->shared_depth = depth > 0 ? (unsigned)depth : COW_MAX_BACKING_DEPTH;
	if (depth <= 0)
		m->reach = 0;
	return 0;
}

/* They would show the new backing file wherever they hold nothing. */
static int refuse_snapshots(struct rebase *m, struct cow_error *err)
{
	struct cow_level top;
	int ret = cow_level_get(m->image, 0, &top);
	uint32_t nr = ret ? 0 : top.nr_snapshots;
	cow_level_fini(&top);
	if (ret || !nr)
		return ret;
	return cow_error_set(
		err, -ENOTSUP,
		"has internal snapshots, which would show the new backing file: delete "
		"them, or rebase with -u if both backing files hold the same");
}

/* *file: the image's. Nobody else has it between what it shows was compared and its new name. */
static int take_over_all(struct rebase *m, struct cow_file **file, struct cow_error *err)
{
	struct cow_disk_spec spec = *m->r->image;
	spec.open.writable = true;
	int ret = cow_disk_open(m->host, m->loop, &spec, &m->image, err);
	if (ret)
		return ret;
	cow_disk_keep_quiet(m->image);
	cow_level_expect_backing(m->image);
	m->cluster = cow_disk_cluster_bytes(m->image);
	m->unit = (uint32_t)cow_max(UNIT_BYTES, m->cluster);
	ret = refuse_snapshots(m, err);
	if (!ret)
		ret = open_base(m, err);
	if (!ret)
		ret = take_all(m, err);
	COW_IGNORE(cow_disk_close(m->base, m->loop, NULL));
	if (!ret)
		return cow_disk_close_keep(m->image, m->loop, file, err);
	COW_IGNORE(cow_disk_close(m->image, m->loop, err));
	return ret;
}

static int open_only(struct rebase *m, struct cow_file **file, struct cow_error *err)
{
	const struct cow_disk_spec *image = m->r->image;
	unsigned flags = COW_OPEN_WRITE | (image->open.buffered ? COW_OPEN_BUFFERED : 0);
	return m->host->ops->open(m->host, image->path, flags, file, err);
}

int cow_backing_rebase(struct cow_host *host, struct cow_loop *loop,
		       const struct cow_backing_rebase *r, struct cow_error *err)
{
	struct rebase m = {
		.r = r, .host = host, .loop = loop, .shared_depth = COW_MAX_BACKING_DEPTH
	};
	struct cow_file *file = NULL;
	struct cow_error own = { 0 };
	if (r->base && cow_reference_has_protocol(r->base))
		return cow_error_set(err, -EINVAL,
				     "backing file %s: looks like a protocol's name: write ./%s "
				     "for a file",
				     r->base, r->base);
	int ret = r->unsafe ? open_only(&m, &file, &own) : take_over_all(&m, &file, &own);
	if (!ret) {
		ret = cow_edit_backing(loop, file, r->base, r->format, &own);
		host->ops->close(file);
	}
	if (!ret)
		return 0;
	if (own.code && strncmp(own.text, r->image->path, strlen(r->image->path)))
		cow_error_prefix(&own, "%s", r->image->path);
	return cow_error_set(err, ret, "%s", own.code ? own.text : strerror(-ret));
}
