/* SPDX-License-Identifier: MIT */
/* See backing_commit.h. In this order: who takes part; the base; all. */
#include "engine/tool/backing_commit.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/error.h"
#include "engine/edit/empty.h"
#include "engine/edit/resize.h"
#include "engine/format/format.h"
#include "engine/loop/blocking.h"
#include "engine/tool/chain_level.h"
#include "engine/tool/convert.h"

#define SPARSE_BYTES 65536u

struct commit {
	const struct cow_backing_commit *c;
	struct cow_loop *loop;
	struct cow_host *host;
	struct cow_file *image; /* locked as its writer */
	struct cow_disk *source, *target;
	struct cow_level base;
	unsigned depth; /* of the base */
	uint64_t reach;
	struct cow_file *between[COW_MAX_BACKING_DEPTH]; /* locked as a reader */
};

/* ---- who takes part ---- */

static int find_base(struct commit *m, struct cow_error *err)
{
	const struct cow_backing_commit *c = m->c;
	struct cow_file *file;
	uint64_t reach;
	m->depth = 1;
	if (c->base) {
		int ret = m->host->ops->open(m->host, c->base, COW_OPEN_NO_LOCK | COW_OPEN_BUFFERED,
					     &file, err);
		if (ret)
			return ret;
		int depth = cow_disk_find_level(m->source, file->dev, file->ino, &reach);
		m->host->ops->close(file);
		if (depth <= 0)
			return cow_error_set(err, -EINVAL, "%s: is no backing file of %s", c->base,
					     c->image->path);
		m->depth = (unsigned)depth;
	}
	int ret = cow_level_get(m->source, m->depth, &m->base);
	if (ret == -ENOENT)
		return cow_error_set(err, -EINVAL, "%s: has no backing file to commit to",
				     c->image->path);
	return ret ? cow_error_set(err, ret, "out of memory") : 0;
}

static int lock_between(struct commit *m, struct cow_error *err)
{
	int ret = 0;
	for (unsigned i = 1; i < m->depth && !ret; i++) {
		struct cow_level level;
		ret = cow_level_get(m->source, i, &level);
		if (ret)
			return cow_error_set(err, ret, "out of memory");
		ret = m->host->ops->open(m->host, level.path, COW_OPEN_BUFFERED, &m->between[i],
					 err);
		cow_level_fini(&level);
	}
	return ret;
}

/* ---- the base ---- */

/* It was found by its name: is it still the file that the chain had? */
static int check_same(struct commit *m, uint64_t dev, uint64_t ino, struct cow_error *err)
{
	if (dev == m->base.dev && ino == m->base.ino)
		return 0;
	return cow_error_set(err, -EBUSY, "%s: was replaced meanwhile", m->base.path);
}

static int grow(struct commit *m, struct cow_error *err)
{
	uint64_t bytes = cow_disk_bytes(m->source);
	struct cow_file *file;
	if (m->base.bytes >= bytes)
		return 0;
	int ret = m->host->ops->open(m->host, m->base.path, COW_OPEN_WRITE | COW_OPEN_BUFFERED,
				     &file, err);
	if (ret)
		return ret;
	const struct cow_resize_options options = { .bytes = bytes };
	ret = check_same(m, file->dev, file->ino, err);
	if (!ret && m->base.raw)
		ret = cow_loop_resize(m->loop, file, bytes);
	else if (!ret)
		ret = cow_resize(m->loop, file, &options, err);
	m->host->ops->close(file);
	if (ret)
		cow_error_set(err, ret, "cannot be made larger: %s", strerror(-ret));
	return ret;
}

static int open_base(struct commit *m, struct cow_error *err)
{
	struct cow_disk_spec spec = *m->c->image;
	uint64_t dev, ino;
	spec.path = m->base.path;
	spec.format = m->base.raw ? COW_DISK_RAW : COW_DISK_QCOW2;
	spec.open.writable = true;
	int ret = grow(m, err);
	if (ret) {
		cow_error_prefix(err, "%s", m->base.path);
		return ret;
	}
	ret = cow_disk_open(m->host, m->loop, &spec, &m->target, err);
	if (ret)
		return ret;
	cow_disk_keep_quiet(m->target);
	cow_disk_identity(m->target, &dev, &ino);
	return check_same(m, dev, ino, err);
}

/* ---- all ---- */

/* What could not be emptied in the end, or should not: nothing has been written yet. */
static int refuse_top(struct commit *m, const struct cow_level *top, struct cow_error *err)
{
	const char *path = m->c->image->path;
	bool emptied = !m->c->base && !m->c->keep;
	if (top->incompatible & QCOW2_INCOMPAT_CORRUPT)
		return cow_error_set(err, -EROFS,
				     "%s: the image is marked corrupt: repair it with cowblk check "
				     "--repair all",
				     path);
	if (emptied && (top->incompatible & QCOW2_INCOMPAT_DATA_FILE))
		return cow_error_set(err, -ENOTSUP,
				     "%s: has an external data file, and cannot be emptied: commit "
				     "with -d if it is not needed",
				     path);
	/* A snapshot shows the backing file wherever it holds nothing, and that would change. */
	if (emptied && top->nr_snapshots)
		return cow_error_set(err, -ENOTSUP,
				     "%s: has internal snapshots, which would show the changed "
				     "backing file: delete them, or commit with -d if they are not "
				     "needed",
				     path);
	return 0;
}

static int check_top(struct commit *m, struct cow_error *err)
{
	struct cow_level top;
	int ret = cow_level_get(m->source, 0, &top);
	if (ret)
		return cow_error_set(err, ret, "out of memory");
	ret = refuse_top(m, &top, err);
	cow_level_fini(&top);
	return ret;
}

static int open_all(struct commit *m, struct cow_error *err)
{
	struct cow_disk_spec spec = *m->c->image;
	spec.open.no_lock = true; /* the lock is ours already */
	int ret = m->host->ops->open(m->host, spec.path, COW_OPEN_WRITE | COW_OPEN_BUFFERED,
				     &m->image, err);
	if (!ret)
		ret = cow_disk_open(m->host, m->loop, &spec, &m->source, err);
	if (!ret)
		ret = find_base(m, err);
	if (!ret)
		ret = check_top(m, err);
	if (!ret)
		ret = lock_between(m, err);
	if (ret)
		return ret;
	/* What the base holds changes under our hands: nobody may look there through the image. */
	/* Where the base ended, it shows whatever lies in its last cluster, once it is longer. */
	m->reach = cow_disk_reach(m->source, m->depth);
	cow_level_cut(m->source, m->depth);
	return open_base(m, err);
}

static int copy(struct commit *m, struct cow_error *err)
{
	const struct cow_backing_commit *c = m->c;
	const struct cow_concat source = { .disks = &m->source, .nr = 1 };
	struct cow_convert convert = {
		.source = &source,
		.target = m->target,
		.exact = true,
		.has_backing = true,
		.shared_depth = m->depth,
		.reach = m->reach,
		.sparse_bytes = SPARSE_BYTES,
		.nr_threads = c->nr_threads,
		.loop = m->loop,
		.rate = c->rate,
		.cancel = c->cancel,
		.progress = c->progress,
	};
	int ret = cow_convert(&convert);
	if (!ret)
		return 0;
	if (ret == -ECANCELED)
		return cow_error_set(err, ret, "%s: interrupted: it shows what it did",
				     c->image->path);
	return cow_error_set(err, ret, "%s: cannot %s at offset %" PRIu64 ": %s",
			     convert.failed_source ? c->image->path : m->base.path,
			     convert.failed_source ? "read" : "write", convert.failed_off,
			     strerror(-ret));
}

static int finish(struct commit *m, struct cow_error *err)
{
	struct cow_disk *target = m->target;
	m->target = NULL;
	int ret = cow_disk_close(target, m->loop, err);
	if (ret || m->c->base || m->c->keep)
		return ret;
	ret = cow_empty(m->loop, m->image, err);
	if (ret)
		cow_error_prefix(err, "%s: is committed, but cannot be emptied", m->c->image->path);
	return ret;
}

static void close_all(struct commit *m)
{
	COW_IGNORE(cow_disk_close(m->target, m->loop, NULL));
	COW_IGNORE(cow_disk_close(m->source, m->loop, NULL));
	for (unsigned i = 0; i < COW_MAX_BACKING_DEPTH; i++)
		if (m->between[i])
			m->host->ops->close(m->between[i]);
	if (m->image)
		m->host->ops->close(m->image);
	cow_level_fini(&m->base);
}

int cow_backing_commit(struct cow_host *host, struct cow_loop *loop,
		       const struct cow_backing_commit *c, struct cow_error *err)
{
	struct commit m = { .c = c, .loop = loop, .host = host };
	int ret = open_all(&m, err);
	if (!ret)
		ret = copy(&m, err);
	if (!ret)
		ret = finish(&m, err);
	close_all(&m);
	return ret ? cow_error_set(err, ret, "%s: %s", c->image->path, strerror(-ret)) : 0;
}
