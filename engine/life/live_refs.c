/* SPDX-License-Identifier: MIT */
/* The refcount blocks of a live change, and what becomes free by it. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/life/live_refs.h"
#include "engine/life/live_state.h"

/* A block that is being done, or parts of it. */
struct job {
	uint64_t b, parts;
};

static uint8_t *buf_of(const struct cow_live *x, unsigned k)
{
	return x->bufs + (size_t)k * x->image->core.g.cluster_bytes;
}

static int too_many(struct cow_live *x, uint64_t cluster)
{
	return cow_error_set(
		x->err, -ERANGE,
		"refcounts of %u bits cannot count another reference to the cluster at offset "
		"%" PRIu64 ": %s",
		1u << x->image->core.g.refcount_order, cluster << x->image->core.g.cluster_bits,
		x->image->core.g.refcount_order
			? "delete snapshots first"
			: "such an image cannot have snapshots, make one with more refcount bits");
}

/* Beside the requests a count may be behind: it is looked at again. */
static int judge(struct cow_live *x, struct cow_live_table *t, uint64_t parts,
		 enum cow_shadow_result result, uint64_t cluster)
{
	if (result == COW_SHADOW_NO_MEMORY)
		return cow_live_trouble(x, -ENOMEM);
	if (!x->frozen) {
		t->stale |= parts;
		return 0;
	}
	if (result == COW_SHADOW_HIGH)
		return too_many(x, cluster);
	return cow_live_corrupt(x, cluster << x->image->core.g.cluster_bits,
				"a cluster in use has a refcount too low");
}

static int do_one(struct cow_live *x, const struct job *job, unsigned k)
{
	const struct cow_geometry *g = &x->image->core.g;
	struct cow_live_table *t = &x->blocks[job->b];
	cow_assert(job->b < x->max_blocks && job->parts);
	struct cow_shadow_part span = cow_live_span(x, job->parts);
	uint64_t cluster;
	int ret = 0;
	enum cow_shadow_result result = cow_shadow_refcounts(
		&x->delta, g, job->b * g->refs_per_block, buf_of(x, k), span, &cluster);
	if (result != COW_SHADOW_OK)
		return judge(x, t, job->parts, result, cluster);
	if (!t->shadow)
		ret = cow_live_trouble(x, cow_live_space_take(&x->space, &t->shadow));
	if (ret)
		return ret;
	x->nr_done += cow_live_parts_in(x, span);
	cow_live_io(x, COW_IO_WRITE, t->shadow, buf_of(x, k), span);
	return 0;
}

static int do_some(struct cow_live *x, const struct job *jobs, unsigned nr)
{
	cow_assert(nr <= x->batch);
	int ret = cow_live_begin_batch(x, "refcount blocks");
	for (unsigned k = 0; k < nr && !ret; k++)
		ret = do_one(x, &jobs[k], k);
	return cow_live_end_batch(x, ret);
}

/*
 * Which parts have to be done (again)? All at first, and when the block has moved. The marks go before
 * the read: see written.h.
 */
static int look(struct cow_live *x, uint64_t b, uint64_t *parts)
{
	struct cow_live_table *t = &x->blocks[b];
	uint64_t src =
		b < x->image->meta.reftable.nr ? cow_table_get(&x->image->meta.reftable, b) : 0;
	uint64_t cluster = src >> x->image->core.g.cluster_bits;
	*parts = 0;
	if (!src && t->stale && x->frozen)
		return cow_live_corrupt(
			x, b * x->image->core.g.refs_per_block << x->image->core.g.cluster_bits,
			"a cluster in use has no refcount");
	if (!src)
		return 0;
	if (!t->stale && !t->shadow)
		return 0;
	*parts = t->stale | cow_written_take(&x->written, cluster);
	if (!t->shadow || src != t->src)
		*parts = cow_written_all(&x->written);
	t->src = src;
	t->stale = 0;
	return 0;
}

int cow_live_do_blocks(struct cow_live *x)
{
	struct job jobs[COW_LIVE_BATCH];
	unsigned nr = 0;
	int ret = 0;
	cow_assert(!x->switched && !x->ios.pending);
	/* The refcount table has grown far, or the entry is broken: not to be judged here. */
	if (x->outside && x->frozen)
		return -EAGAIN;
	for (uint64_t b = 0; b < x->max_blocks && !ret; b++) {
		uint64_t parts;
		ret = look(x, b, &parts);
		if (ret || !parts)
			continue;
		cow_live_io(x, COW_IO_READ, x->blocks[b].src, buf_of(x, nr),
			    cow_live_span(x, parts));
		jobs[nr++] = (struct job){ .b = b, .parts = parts };
		if (nr == x->batch) {
			ret = cow_live_cancelled(x) ? -ECANCELED : do_some(x, jobs, nr);
			nr = 0;
		}
	}
	int last = ret ? cow_live_ios_wait(&x->ios) : do_some(x, jobs, nr);
	return ret ? ret : last;
}

/* ---- afterwards ---- */

/* Clusters of which the old block says that the last reference has gone. The new one counts 1. */
static int free_in_block(struct cow_live *x, uint64_t b, const uint8_t *block)
{
	const struct cow_geometry *g = &x->image->core.g;
	uint64_t first = b * g->refs_per_block, end = first + g->refs_per_block, start = 0, nr = 0;
	int ret = 0;
	for (uint64_t c = cow_delta_next(&x->delta, first, end); c < end && !ret;
	     c = cow_delta_next(&x->delta, c + 1, end)) {
		int64_t by = cow_delta_get(&x->delta, c);
		uint64_t old = cow_refcount_get(block, g->refcount_order, c - first);
		if (by > 0 || old != (uint64_t)-by)
			continue;
		if (nr && start + nr == c && nr < 1u << 29) {
			nr++;
			continue;
		}
		if (nr)
			ret = cow_live_space_free(&x->space, start, nr);
		start = c;
		nr = 1;
	}
	return ret || !nr ? ret : cow_live_space_free(&x->space, start, nr);
}

int cow_live_free_victim(struct cow_live *x)
{
	int ret = 0;
	cow_assert(x->switched && x->s->what == COW_LIVE_DELETE);
	for (uint64_t b = 0; b < x->max_blocks && !ret; b++) {
		if (!x->blocks[b].shadow)
			continue;
		cow_live_ios_add(&x->ios, COW_IO_READ, x->blocks[b].src, x->bufs,
				 x->image->core.g.cluster_bytes);
		ret = cow_live_ios_wait(&x->ios);
		if (!ret)
			ret = free_in_block(x, b, x->bufs);
	}
	return ret;
}
