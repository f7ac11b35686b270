/* SPDX-License-Identifier: MIT */
/* See compact_deflate.h. In this order: what may be; a batch; the rest; tables; windows. */
#include "engine/edit/compact_deflate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/compress/deflate.h"
#include "engine/edit/compact_step.h"
#include "engine/edit/compact_zeroes.h"
#include "engine/edit/edit_fault.h"
#include "engine/edit/edit_refcount.h"
#include "engine/format/map.h"
#include "engine/loop/blocking.h"

#define BATCH_BYTES (4ull << 20) /* of clusters that are compressed at a time */
#define BATCH_CLUSTERS 8u	 /* or so many, if they are large */
/* Of what a window gains, so much is worth that the rest of its data moves, too. */
#define WORTH 64u
#define ZEROS 1u /* in place of a cluster's new place: it needs none */

struct job {
	uint64_t host; /* its place as it was */
	struct cow_l2_entry entry;
	uint32_t refs;
	uint32_t bytes; /* compressed; 0: not shorter */
	bool zero;
};

/* A part of the file: [first, end) clusters. */
struct window {
	struct cow_compact_step *s;
	uint64_t first, end;
	uint64_t *now; /* of each cluster of data: place, or compressed entry; 0: not met */
	uint64_t nr_met, nr_less;

	struct job *jobs;
	unsigned nr, max;
	uint8_t *in, *out;
	struct cow_deflate **deflate; /* one for each worker */
	unsigned nr_workers;
};

/* ---- what may be ---- */

int cow_compact_deflate_verify(struct cow_edit *e)
{
	const char *why = NULL;
	if (e->header.crypt_method)
		why = "it is encrypted";
	else if (e->g.data_file)
		why = "its data is in an external data file";
	else if (e->g.max_refcount == 1)
		why = "refcounts of 1 bit let no two of them share a cluster";
	return why ? cow_error_set(e->err, -ENOTSUP,
				   "the image can have no compressed clusters: %s", why)
		   : 0;
}

/* Where its place is noted; NULL: it is outside. */
static uint64_t *slot(const struct window *w, uint64_t host)
{
	uint64_t cluster = host >> w->s->e.g.cluster_bits;
	return cluster >= w->first && cluster < w->end ? &w->now[cluster - w->first] : NULL;
}

/*
 * All that it shows is known without a backing file; with subclusters, by this entry alone: others may
 * show other ones of the same cluster.
 */
static bool is_whole(const struct cow_compact_step *s, const struct cow_compact_table *t,
		     struct cow_l2_entry entry, uint64_t count)
{
	const struct cow_edit *e = &s->e;
	if (!e->g.extended_l2)
		return true;
	uint32_t known = (uint32_t)(entry.subs | entry.subs >> 32);
	return count == t->refs && (known == UINT32_MAX || !e->header.backing_name_off);
}

/* ---- a batch ---- */

/* What is not valid of it reads as zeros. */
static void clear_invalid(const struct cow_geometry *g, struct cow_l2_entry entry, uint8_t *buf)
{
	for (unsigned sub = 0; g->extended_l2 && sub < 32; sub++)
		if (!(entry.subs >> sub & 1))
			memset(buf + sub * g->sub_bytes, 0, g->sub_bytes);
}

static int read_batch(struct window *w)
{
	struct cow_edit *e = &w->s->e;
	int ret = 0;
	for (unsigned i = 0; i < w->nr && !ret; i++) {
		uint8_t *buf = w->in + ((uint64_t)i << e->g.cluster_bits);
		ret = cow_compact_step_before(w->s, e->g.cluster_bytes);
		if (ret)
			return ret;
		ret = cow_loop_read(e->loop, e->file, w->jobs[i].host, buf, e->g.cluster_bytes);
		if (ret)
			return cow_error_set(e->err, ret, "data at offset %" PRIu64 ": %s",
					     w->jobs[i].host, strerror(-ret));
		clear_invalid(&e->g, w->jobs[i].entry, buf);
	}
	return ret;
}

/* On a worker's thread: nothing of it is anybody else's. */
static void deflate_one(void *arg, unsigned i, unsigned worker)
{
	struct window *w = arg;
	const struct cow_geometry *g = &w->s->e.g;
	uint64_t at = (uint64_t)i << g->cluster_bits;
	struct job *job = &w->jobs[i];
	cow_assert(i < w->nr && worker < w->nr_workers);
	job->zero = cow_compact_zeroes_may(w->s) &&
		    cow_compact_zeroes_are(w->in + at, g->cluster_bytes);
	if (!job->zero)
		job->bytes = cow_deflate_cluster(w->deflate[worker], w->in + at, g->cluster_bytes,
						 w->out + at, g->cluster_bytes - 1);
}

static void deflate_batch(struct window *w)
{
	const struct cow_compact_options *o = w->s->options;
	if (o->each) {
		o->each(o->ctx, w->nr, deflate_one, w);
		return;
	}
	for (unsigned i = 0; i < w->nr; i++)
		deflate_one(w, i, 0);
}

/* Behind the one before it; stays as it is if there is no room. */
static int put_one(struct window *w, unsigned i)
{
	struct cow_edit *e = &w->s->e;
	const struct job *job = &w->jobs[i];
	uint64_t word = ZEROS;
	int ret = 0;
	if (!job->zero)
		ret = cow_compact_packed_put(&w->s->packed, e,
					     w->out + ((uint64_t)i << e->g.cluster_bits),
					     job->bytes, job->refs, &word);
	if (ret || !word)
		return ret;
	*slot(w, job->host) = word;
	w->nr_less++;
	return cow_edit_count(e, job->host, e->g.cluster_bytes, -(int)job->refs);
}

static int finish_batch(struct window *w)
{
	int ret = read_batch(w);
	if (!ret)
		deflate_batch(w);
	for (unsigned i = 0; i < w->nr && !ret; i++)
		if (w->jobs[i].zero || w->jobs[i].bytes)
			ret = put_one(w, i);
	w->nr = 0;
	return ret;
}

static int collect(struct window *w, const struct cow_compact_table *t, struct cow_l2_entry entry)
{
	struct cow_edit *e = &w->s->e;
	uint64_t host = entry.raw & QCOW2_OFFSET_MASK, count, *now = slot(w, host);
	if ((entry.raw & QCOW2_COMPRESSED) || !host || !now || *now)
		return 0;
	int ret = cow_edit_refcount(e, host >> e->g.cluster_bits, &count);
	if (ret || count > INT32_MAX || !is_whole(w->s, t, entry, count))
		return ret;
	*now = host;
	w->nr_met++;
	w->jobs[w->nr++] = (struct job){ .host = host, .entry = entry, .refs = (uint32_t)count };
	return w->nr < w->max ? 0 : finish_batch(w);
}

static int deflate_data(struct window *w)
{
	struct cow_compact_step *s = w->s;
	struct cow_edit *e = &s->e;
	int ret = 0;
	for (uint64_t i = 0; i < s->tables.nr && !ret; i++) {
		ret = cow_compact_step_read_table(s, s->tables.t[i].off);
		for (uint32_t at = 0; at < 1u << e->g.l2_bits && !ret; at++) {
			struct cow_l2_entry entry = cow_entry_get(&e->g, e->table, at);
			if (!entry.raw)
				continue;
			ret = cow_entry_fault(&e->g, entry)
				      ? cow_edit_corrupt(e, s->tables.t[i].off,
							 cow_entry_fault(&e->g, entry))
				      : collect(w, &s->tables.t[i], entry);
		}
	}
	if (!ret)
		ret = finish_batch(w);
	return ret ? ret : cow_compact_packed_end(&s->packed, e);
}

/* ---- the rest ---- */

/* What is not shorter makes room, so that what is free lies together. */
static int move_rest(struct window *w)
{
	struct cow_edit *e = &w->s->e;
	int ret = 0;
	for (uint64_t i = 0; i < w->end - w->first && !ret; i++) {
		uint64_t host = (w->first + i) << e->g.cluster_bits, off, count;
		if (w->now[i] != host)
			continue;
		ret = cow_edit_alloc_below(e, 1, e->max_clusters, &off);
		if (ret || !off)
			return ret;
		ret = cow_edit_refcount(e, w->first + i, &count);
		if (!ret)
			ret = cow_compact_step_copy(w->s, host, off);
		if (!ret)
			ret = cow_edit_count(e, off, e->g.cluster_bytes, (int)count - 1);
		if (!ret)
			ret = cow_edit_count(e, host, e->g.cluster_bytes, -(int)count);
		w->now[i] = off;
	}
	return ret;
}

/* ---- tables ---- */

static struct cow_l2_entry entry_now(const struct window *w, struct cow_l2_entry entry)
{
	const uint64_t *now = slot(w, entry.raw & QCOW2_OFFSET_MASK);
	if ((entry.raw & QCOW2_COMPRESSED) || !(entry.raw & QCOW2_OFFSET_MASK) || !now || !*now)
		return entry;
	if (*now == ZEROS)
		return cow_compact_zeroes_instead(&w->s->e, entry);
	if (*now & QCOW2_COMPRESSED)
		return (struct cow_l2_entry){ .raw = *now };
	entry.raw = (entry.raw & ~QCOW2_OFFSET_MASK) | *now;
	return entry;
}

static int change_table(struct window *w, struct cow_compact_table *t)
{
	struct cow_edit *e = &w->s->e;
	bool changed = false;
	int ret = cow_compact_step_read_table(w->s, t->off);
	for (uint32_t at = 0; at < 1u << e->g.l2_bits && !ret; at++) {
		struct cow_l2_entry was = cow_entry_get(&e->g, e->table, at),
				    now = entry_now(w, was);
		if (now.raw == was.raw && now.subs == was.subs)
			continue;
		cow_entry_set(&e->g, e->table, at, now);
		changed = true;
	}
	return ret || !changed ? ret : cow_compact_step_change_table(w->s, t);
}

static int change_tables(struct window *w)
{
	struct cow_compact_step *s = w->s;
	int ret = 0;
	for (uint64_t i = 0; i < s->tables.nr && !ret; i++)
		ret = change_table(w, &s->tables.t[i]);
	if (!ret)
		ret = cow_compact_tables_store(&s->tables, &s->e, UINT64_MAX);
	if (!ret)
		ret = cow_edit_drop_blocks(&s->e);
	return ret ? ret : cow_edit_commit(&s->e);
}

/* ---- windows ---- */

static int prepare(struct window *w)
{
	const struct cow_compact_options *o = w->s->options;
	const struct cow_geometry *g = &w->s->e.g;
	/* No more than there are: a small image does not clear 8 MiB for each window. */
	w->max = (unsigned)cow_min(cow_max(BATCH_BYTES >> g->cluster_bits, BATCH_CLUSTERS),
				   w->end - w->first);
	w->nr_workers = o->each ? o->nr_workers : 1;
	w->now = calloc(w->end - w->first, sizeof(*w->now));
	w->jobs = calloc(w->max, sizeof(*w->jobs));
	w->in = cow_buf_alloc((uint64_t)w->max << g->cluster_bits);
	w->out = cow_buf_alloc((uint64_t)w->max << g->cluster_bits);
	w->deflate = calloc(w->nr_workers, sizeof(struct cow_deflate *));
	bool ok = w->now && w->jobs && w->in && w->out && w->deflate;
	for (unsigned i = 0; ok && i < w->nr_workers; i++)
		ok = (w->deflate[i] = cow_deflate_new(g->compression_type)) != NULL;
	return ok ? 0 : cow_error_no_memory(w->s->e.err);
}

static void fini(struct window *w)
{
	for (unsigned i = 0; w->deflate && i < w->nr_workers; i++)
		cow_deflate_free(w->deflate[i]);
	free(w->deflate);
	free(w->out);
	free(w->in);
	free(w->jobs);
	free(w->now);
}

static int run(struct window *w)
{
	struct cow_compact_result *result = w->s->result;
	int ret = prepare(w);
	if (!ret)
		ret = deflate_data(w);
	if (!ret && w->nr_less && w->nr_less >= w->nr_met / WORTH)
		ret = move_rest(w);
	if (!ret && w->nr_less)
		ret = change_tables(w);
	if (!ret)
		result->compressed_bytes += w->nr_less << w->s->e.g.cluster_bits;
	fini(w);
	return ret;
}

/* *next: the first cluster behind the window, which begins there. */
static int run_window(struct cow_compact_step *s, uint64_t *next, uint64_t *end)
{
	uint64_t most = cow_compact_step_clusters(s), nr = 0, count;
	struct window w = { .s = s, .first = *next, .end = *next };
	if (!*end)
		*end = s->end;
	s->total_bytes = *end << s->e.g.cluster_bits;
	for (; w.end < *end && nr < most && w.end - w.first < COW_COMPACT_STEP_MOST; w.end++) {
		int ret = cow_edit_refcount(&s->e, w.end, &count);
		if (ret)
			return ret;
		nr += count != 0;
	}
	if (w.first <= 1 && !s->e.file->block_device)
		s->e.scan = s->end; /* nowhere else does what is free lie together yet */
	int ret = run(&w);
	if (!ret)
		*next = w.end;
	return ret;
}

int cow_compact_deflate(struct cow_loop *loop, struct cow_file *file,
			const struct cow_compact_options *wanted, struct cow_compact_result *result,
			struct cow_error *err)
{
	struct cow_compact_options options = *wanted;
	uint64_t next = 1, end = 0;
	int ret = 0;
	while (!ret && (!end || next < end)) {
		struct cow_compact_step s = { .options = &options, .result = result };
		ret = cow_compact_step_open(&s, loop, file, err);
		if (!ret) {
			result->bytes_before =
				cow_max(result->bytes_before, s.end << s.e.g.cluster_bits);
			ret = run_window(&s, &next, &end);
		}
		if (ret && cow_compact_step_smaller(&s, ret, &options))
			ret = 0;
		cow_compact_step_close(&s);
	}
	return ret;
}
