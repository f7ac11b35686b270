/* SPDX-License-Identifier: MIT */
/* See convert_stream.h. In this order: the pipe; raw; qcow2: where data is; its tables; its data; both, as one. */
#include "engine/tool/convert_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/create/create_header.h"
#include "engine/create/create_layout.h"
#include "engine/format/refcount_entry.h"

#define UNIT_BYTES (1u << 20)
#define ALL_ALLOCATED 0x00000000ffffffffull /* an extended entry's 32 subclusters */

struct stream {
	struct cow_convert *c;
	struct cow_concat_lane lane;
	int fd;
	uint8_t *buf;
	/* qcow2 */
	struct cow_create_layout layout;
	uint8_t *
		*maps; /* for each L2 table a bit for each of its clusters that has data, or NULL */
	uint64_t per_map;   /* clusters */
	uint64_t nr_tables; /* L2 tables that there are, and clusters of data */
	uint64_t nr_data;
};

/* ---- the pipe ---- */

static int put(struct stream *s, const void *buf, size_t bytes)
{
	const uint8_t *from = buf;
	s->c->failed_source = false;
	while (bytes) {
		ssize_t n = write(s->fd, from, bytes);
		if (n < 0 && errno != EINTR)
			return -errno;
		from += n < 0 ? 0 : n;
		bytes -= n < 0 ? 0 : (size_t)n;
	}
	return 0;
}

static int read_source(struct cow_convert *c, struct cow_concat_lane *lane, uint64_t off,
		       uint64_t bytes, uint8_t *buf)
{
	int ret = c->salvage ? cow_salvage_read(c->salvage, lane, off, bytes, buf)
			     : cow_concat_lane_read(lane, off, bytes, buf);
	if (ret) {
		c->failed_source = true;
		c->failed_off = off;
	}
	return ret;
}

static int enter(struct cow_walker *w)
{
	struct stream *s = w->walk->ctx;
	return cow_concat_lane_open(&s->lane, s->c->source, w->loop);
}

static void leave(struct cow_walker *w)
{
	cow_concat_lane_close(&((struct stream *)w->walk->ctx)->lane);
}

/* One thread: a pipe has one end. */
static int run(struct stream *s, uint64_t unit, struct cow_progress progress,
	       int (*visit)(struct cow_walker *, uint64_t, uint64_t))
{
	struct cow_walk walk = {
		.end = cow_concat_bytes(s->c->source),
		.unit = unit,
		.nr_threads = 1,
		.cancel = s->c->cancel,
		.progress = progress,
		.ctx = s,
		.enter = enter,
		.visit = visit,
		.leave = leave,
	};
	return cow_walk_run(&walk);
}

/* ---- raw ---- */

static int copy(struct cow_walker *w, uint64_t off, uint64_t bytes)
{
	struct stream *s = w->walk->ctx;
	int ret = read_source(s->c, &s->lane, off, bytes, s->buf);
	if (ret)
		return ret;
	s->c->failed_off = off;
	ret = cow_rate_wait(s->c->rate, bytes, w->loop);
	return ret ? ret : put(s, s->buf, bytes);
}

int cow_convert_stream_raw(struct cow_convert *c, int fd)
{
	struct stream s = { .c = c, .fd = fd, .buf = cow_buf_alloc(UNIT_BYTES) };
	int ret = s.buf ? run(&s, UNIT_BYTES, c->progress, copy) : -ENOMEM;
	free(s.buf);
	return ret;
}

/* ---- qcow2: where data is ---- */

static uint32_t cluster_bits(const struct stream *s)
{
	return s->layout.header.cluster_bits;
}

static bool has_data(const struct stream *s, uint64_t cluster)
{
	const uint8_t *map = s->maps[cluster / s->per_map];
	uint64_t i = cluster % s->per_map;
	return map && map[i / 8] >> i % 8 & 1;
}

static int set_data(struct stream *s, uint64_t cluster)
{
	uint8_t **map = &s->maps[cluster / s->per_map];
	uint64_t i = cluster % s->per_map;
	if (has_data(s, cluster))
		return 0;
	if (!*map) {
		*map = calloc((s->per_map + 7) / 8, 1);
		s->nr_tables++;
	}
	if (!*map)
		return -ENOMEM;
	(*map)[i / 8] |= (uint8_t)(1u << i % 8);
	s->nr_data++;
	return 0;
}

/* What of a piece that was read is not zeros has clusters. */
static int find_data(struct stream *s, uint64_t off, uint64_t bytes)
{
	uint64_t cluster_bytes = 1ull << cluster_bits(s);
	int ret = 0;
	for (uint64_t at = 0, n; at < bytes && !ret; at += n) {
		n = cow_min(bytes - at, cluster_bytes - ((off + at) & (cluster_bytes - 1)));
		if (!s->c->sparse_bytes || !cow_lane_is_zero(s->buf + at, n))
			ret = set_data(s, (off + at) >> cluster_bits(s));
	}
	return ret;
}

/* A range that nobody needs to read for that, however long. */
static void pass_over(struct cow_walker *w, uint64_t upto)
{
	uint64_t off, bytes;
	cow_walk_take(w, upto, &off, &bytes);
}

static int look(struct cow_walker *w, uint64_t off, uint64_t bytes)
{
	struct stream *s = w->walk->ctx;
	struct cow_salvage *salvage = s->c->salvage;
	uint64_t end = off + bytes;
	int ret = 0;
	for (uint64_t n; off < end && !ret; off += n) {
		struct cow_extent e;
		ret = cow_concat_lane_extent(&s->lane, off, w->walk->end - off, &e);
		bool lost = salvage && !salvage->mark && cow_salvage_takes(ret);
		n = cow_min(e.bytes, end - off);
		if (lost)
			ret = cow_salvage_note(salvage, off, e.bytes);
		s->c->failed_source = true;
		s->c->failed_off = off;
		if (ret && !(salvage && cow_salvage_takes(ret)))
			return ret;
		if (s->c->sparse_bytes && (lost || (!ret && e.zero))) {
			pass_over(w, off + e.bytes);
			continue;
		}
		ret = read_source(s->c, &s->lane, off, n, s->buf);
		if (!ret)
			ret = find_data(s, off, n);
	}
	return ret;
}

/* ---- its tables ---- */

/* Words of a table, gathered in s->buf. */
struct words {
	struct stream *s;
	size_t bytes;
	int ret;
};

static void flush(struct words *to)
{
	if (!to->ret && to->bytes)
		to->ret = put(to->s, to->s->buf, to->bytes);
	to->bytes = 0;
}

static void word(struct words *to, uint64_t value)
{
	cow_store64_be(to->s->buf + to->bytes, value);
	to->bytes += 8;
	if (to->bytes == UNIT_BYTES)
		flush(to);
}

static uint64_t entry_of(const struct stream *s, uint64_t off, uint64_t idx)
{
	return (off + (idx << cluster_bits(s))) | QCOW2_COPIED;
}

static uint64_t whole_clusters(const struct stream *s, uint64_t bytes)
{
	return cow_round_up(bytes, 1ull << cluster_bits(s));
}

static int put_reftable(struct stream *s)
{
	const struct cow_create_layout *l = &s->layout;
	struct words to = { .s = s };
	uint64_t nr = (uint64_t)l->header.reftable_clusters << cluster_bits(s) >> 3;
	for (uint64_t i = 0; i < nr && !to.ret; i++)
		word(&to, i < l->nr_refblocks ? l->refblocks_off + (i << cluster_bits(s)) : 0);
	flush(&to);
	return to.ret;
}

static int put_refblocks(struct stream *s)
{
	const struct cow_create_layout *l = &s->layout;
	uint32_t order = l->header.refcount_order;
	uint64_t left = l->nr_refblocks << cluster_bits(s), idx = 0;
	int ret = 0;
	for (uint64_t n; left && !ret; left -= n) {
		n = cow_min(left, UNIT_BYTES);
		memset(s->buf, 0, n);
		for (uint64_t i = 0; i < n * 8 >> order && idx < l->nr_clusters; i++, idx++)
			cow_refcount_set(s->buf, order, i, 1);
		ret = put(s, s->buf, n);
	}
	cow_assert(ret || idx == l->nr_clusters);
	return ret;
}

static int put_l1(struct stream *s)
{
	const struct cow_create_layout *l = &s->layout;
	struct words to = { .s = s };
	uint64_t nr = whole_clusters(s, l->l1_bytes) >> 3, table = 0;
	for (uint64_t i = 0; i < nr && !to.ret; i++)
		word(&to,
		     i < l->header.l1_entries && s->maps[i] ? entry_of(s, l->l2_off, table++) : 0);
	flush(&to);
	cow_assert(to.ret || table == s->nr_tables);
	return to.ret;
}

static int put_l2(struct stream *s)
{
	const struct cow_create_layout *l = &s->layout;
	bool extended = l->header.incompatible & QCOW2_INCOMPAT_EXTL2;
	struct words to = { .s = s };
	uint64_t data = 0;
	for (uint64_t t = 0; t < l->header.l1_entries && !to.ret; t++) {
		for (uint64_t i = 0; s->maps[t] && i < s->per_map && !to.ret; i++) {
			bool here = has_data(s, t * s->per_map + i);
			word(&to, here ? entry_of(s, l->data_off, data++) : 0);
			if (extended)
				word(&to, here ? ALL_ALLOCATED : 0);
		}
	}
	flush(&to);
	cow_assert(to.ret || data == s->nr_data);
	return to.ret;
}

static int put_metadata(struct stream *s, const struct cow_create_options *o, struct cow_error *err)
{
	uint32_t bytes = 1u << cluster_bits(s);
	uint8_t *cluster = cow_buf_alloc(bytes);
	if (!cluster)
		return -ENOMEM;
	int ret = cow_create_first_cluster(&s->layout, o, cluster, err);
	if (!ret)
		ret = put(s, cluster, bytes);
	free(cluster);
	if (!ret)
		ret = put_reftable(s);
	if (!ret)
		ret = put_refblocks(s);
	if (!ret)
		ret = put_l1(s);
	return ret ? ret : put_l2(s);
}

/* ---- its data ---- */

/* The next cluster with data, from here on; behind the last: the disk's end. */
static uint64_t next_data(const struct stream *s, uint64_t cluster)
{
	uint64_t end = s->layout.header.l1_entries * s->per_map;
	while (cluster < end && !has_data(s, cluster))
		cluster = s->maps[cluster / s->per_map]
				  ? cluster + 1
				  : cow_round_down(cluster, s->per_map) + s->per_map;
	return cluster;
}

/* Pieces are whole clusters, but for the last. */
static int copy_data(struct cow_walker *w, uint64_t off, uint64_t bytes)
{
	struct stream *s = w->walk->ctx;
	uint64_t first = off >> cluster_bits(s), cluster_bytes = 1ull << cluster_bits(s);
	uint64_t end = (off + bytes + cluster_bytes - 1) >> cluster_bits(s);
	uint64_t i = next_data(s, first);
	for (uint64_t n; i < end; i = next_data(s, i + n)) {
		for (n = 1; i + n < end && has_data(s, i + n);)
			n++;
		uint64_t at = i << cluster_bits(s), len = n << cluster_bits(s);
		uint64_t there = cow_min(len, off + bytes - at);
		int ret = read_source(s->c, &s->lane, at, there, s->buf);
		if (ret)
			return ret;
		memset(s->buf + there, 0, len - there);
		s->c->failed_off = at;
		ret = cow_rate_wait(s->c->rate, len, w->loop);
		if (!ret)
			ret = put(s, s->buf, len);
		if (ret)
			return ret;
	}
	pass_over(w, cow_min(i, w->walk->end >> cluster_bits(s)) << cluster_bits(s));
	return 0;
}

/* ---- both, as one ---- */

struct half {
	struct cow_progress whole;
	bool second;
};

static void show_half(void *ctx, uint64_t done, uint64_t all)
{
	const struct half *half = ctx;
	half->whole.show(half->whole.ctx, done / 2 + (half->second ? all / 2 : 0), all);
}

static int plan(struct stream *s, const struct cow_create_options *o, struct cow_error *err)
{
	int ret = cow_create_layout_init(&s->layout, o, o->size_bytes, err);
	if (ret)
		return ret;
	s->per_map = cow_l2_entries(&s->layout.header);
	s->maps = calloc(s->layout.header.l1_entries + 1ul, sizeof(*s->maps));
	s->buf = cow_buf_alloc(cow_max(UNIT_BYTES, 1u << cluster_bits(s)));
	return s->maps && s->buf ? 0 : -ENOMEM;
}

static void free_plan(struct stream *s)
{
	for (uint64_t i = 0; s->maps && i < s->layout.header.l1_entries; i++)
		free(s->maps[i]);
	free(s->maps);
	free(s->buf);
}

int cow_convert_stream_qcow2(struct cow_convert *c, const struct cow_create_options *options,
			     int fd, struct cow_error *err)
{
	struct stream s = { .c = c, .fd = fd };
	struct half half = { .whole = c->progress };
	struct cow_progress progress = { c->progress.show ? show_half : NULL, &half };
	cow_assert(options->preallocation == COW_PREALLOC_OFF && !options->backing_file);
	int ret = plan(&s, options, err);
	uint64_t unit = cow_max(UNIT_BYTES, 1u << cluster_bits(&s));
	if (!ret)
		ret = run(&s, UNIT_BYTES, progress, look);
	if (!ret)
		ret = cow_create_layout_take(&s.layout, s.nr_tables, s.nr_data, err);
	if (!ret)
		ret = put_metadata(&s, options, err);
	half.second = true;
	if (!ret)
		ret = run(&s, unit, progress, copy_data);
	free_plan(&s);
	return ret;
}
