/* SPDX-License-Identifier: MIT */
/* See compact_packed.h. In this order: the list; a place for each; all of them; new ones. */
#include "engine/edit/compact_packed.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/edit/edit_fault.h"
#include "engine/edit/edit_refcount.h"
#include "engine/format/map.h"
#include "engine/loop/blocking.h"

#define RUN_CLUSTERS 4u /* in the buffer; a payload reaches into 3 at most */

/* ---- the list ---- */

int cow_compact_packed_add(struct cow_compact_packed *k, struct cow_edit *e, uint64_t word,
			   uint32_t refs)
{
	struct cow_compressed c = cow_compressed_decode(word, e->g.cluster_bits);
	if (k->nr == k->max) {
		uint64_t max = k->max ? 2 * k->max : 256;
		struct cow_compact_payload *more = reallocarray(k->p, max, sizeof(*more));
		if (!more)
			return cow_error_no_memory(e->err);
		k->p = more;
		k->max = max;
	}
	k->p[k->nr++] = (struct cow_compact_payload){
		.word = word, .off = c.off, .to = word, .bytes = c.bytes, .refs = refs
	};
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct cow_compact_payload *x = a, *y = b;
	if (x->off != y->off)
		return x->off > y->off ? 1 : -1;
	return (x->word > y->word) - (x->word < y->word);
}

/* Those that snapshots share are one. */
static void merge(struct cow_compact_packed *k)
{
	uint64_t nr = 0;
	if (k->nr)
		qsort(k->p, k->nr, sizeof(*k->p), by_place);
	for (uint64_t i = 0; i < k->nr; i++) {
		if (nr && k->p[nr - 1].word == k->p[i].word)
			k->p[nr - 1].refs += k->p[i].refs;
		else
			k->p[nr++] = k->p[i];
	}
	k->nr = nr;
}

uint64_t cow_compact_packed_word(const struct cow_compact_packed *k, uint64_t word,
				 uint32_t cluster_bits)
{
	struct cow_compact_payload key = { .word = word,
					   .off = cow_compressed_decode(word, cluster_bits).off };
	const struct cow_compact_payload *p =
		k->nr ? bsearch(&key, k->p, k->nr, sizeof(key), by_place) : NULL;
	return p ? p->to : word;
}

void cow_compact_packed_free(struct cow_compact_packed *k)
{
	free(k->p);
	free(k->buf);
}

/* ---- a place for each ---- */

static int flush(struct cow_compact_packed *k, struct cow_edit *e, uint64_t bytes)
{
	int ret = bytes ? cow_loop_write(e->loop, e->file, k->off, k->buf, bytes) : 0;
	return cow_edit_cannot_write(e, ret);
}

/* The clusters below `at` are written: the rest goes to the front of the buffer. */
static int slide(struct cow_compact_packed *k, struct cow_edit *e, uint64_t *at)
{
	uint64_t done = cow_round_down(*at, e->g.cluster_bytes);
	int ret = flush(k, e, done);
	memmove(k->buf, k->buf + done, k->bytes - done);
	memset(k->buf + k->bytes - done, 0, done);
	k->off += done;
	k->bytes -= done;
	k->fill = k->fill > done ? k->fill - done : 0;
	k->touched -= done;
	*at -= done;
	return ret;
}

/* Clusters right behind, until the run is `end` long. *ok false: one is not free. */
static int lengthen(struct cow_compact_packed *k, struct cow_edit *e, uint64_t end, uint64_t below,
		    bool *ok)
{
	int ret = 0;
	*ok = true;
	while (k->bytes < end && *ok && !ret) {
		uint64_t next = k->off + k->bytes;
		*ok = next < below;
		if (*ok)
			ret = cow_edit_alloc_at(e, next >> e->g.cluster_bits, ok);
		if (*ok)
			k->bytes += e->g.cluster_bytes;
	}
	return ret;
}

/* Would so many more references fit everywhere? */
static int can_count(struct cow_compact_packed *k, struct cow_edit *e, uint64_t at, uint64_t end,
		     uint32_t refs, bool *ok)
{
	uint64_t count;
	int ret = 0;
	*ok = true;
	for (uint64_t c = cow_round_down(at, e->g.cluster_bytes);
	     c < cow_min(end, k->touched) && !ret; c += e->g.cluster_bytes) {
		ret = cow_edit_refcount(e, (k->off + c) >> e->g.cluster_bits, &count);
		*ok &= count + refs <= e->g.max_refcount;
	}
	return ret;
}

/* A new cluster counts 1 already, for the first that lies in it. */
static int count(struct cow_compact_packed *k, struct cow_edit *e, uint64_t at, uint64_t end,
		 uint32_t refs)
{
	int ret = 0;
	for (uint64_t c = cow_round_down(at, e->g.cluster_bytes); c < end && !ret;
	     c += e->g.cluster_bytes)
		ret = cow_edit_count(e, k->off + c, e->g.cluster_bytes,
				     (int)refs - (c >= k->touched));
	k->touched = cow_max(k->touched, cow_round_up(end, e->g.cluster_bytes));
	return ret;
}

/* A run of its own. k->full: there is no room below. */
static int begin(struct cow_compact_packed *k, struct cow_edit *e,
		 const struct cow_compact_payload *p, uint64_t below, uint64_t *at)
{
	*at = p->off & 511;
	uint64_t need = cow_round_up(*at + p->bytes, e->g.cluster_bytes), off;
	int ret = flush(k, e, k->bytes);
	k->off = k->bytes = k->fill = k->touched = 0;
	memset(k->buf, 0, (uint64_t)RUN_CLUSTERS << e->g.cluster_bits);
	if (!ret)
		ret = cow_edit_alloc_below(e, need >> e->g.cluster_bits, below >> e->g.cluster_bits,
					   &off);
	if (ret)
		return ret;
	k->full = !off;
	if (k->full)
		return 0;
	k->off = off;
	k->bytes = need;
	return 0;
}

/*
 * Where in the run: side by side with the last one as they were; else behind it, and as far into a
 * sector as before, so that its length in sectors stays.
 */
static uint64_t place(const struct cow_compact_packed *k, const struct cow_compact_payload *last,
		      uint64_t last_at, const struct cow_compact_payload *p)
{
	if (last && p->off <= cow_round_up(last->off + last->bytes, 512))
		return last_at + (p->off - last->off);
	return k->fill + ((p->off - k->fill) & 511);
}

/* Into the run as it stands, if it fits. */
static int fit(struct cow_compact_packed *k, struct cow_edit *e,
	       const struct cow_compact_payload *p, uint64_t below, uint64_t *at, bool *ok)
{
	int ret = 0;
	*ok = k->bytes != 0;
	if (*ok && *at + p->bytes > (uint64_t)RUN_CLUSTERS << e->g.cluster_bits)
		ret = slide(k, e, at);
	if (!ret && *ok)
		ret = lengthen(k, e, *at + p->bytes, below, ok);
	if (!ret && *ok)
		ret = can_count(k, e, *at, *at + p->bytes, p->refs, ok);
	return ret;
}

static int put(struct cow_compact_packed *k, struct cow_edit *e, struct cow_compact_payload *p,
	       uint64_t at)
{
	uint64_t end = at + p->bytes;
	cow_assert(end <= k->bytes && k->bytes <= (uint64_t)RUN_CLUSTERS << e->g.cluster_bits);
	int ret = cow_loop_read(e->loop, e->file, p->off, k->buf + at, p->bytes);
	if (ret)
		return cow_error_set(e->err, ret, "compressed cluster at offset %" PRIu64 ": %s",
				     p->off, strerror(-ret));
	ret = count(k, e, at, end, p->refs);
	if (!ret)
		ret = cow_edit_count(e, p->off, p->bytes, -(int)p->refs);
	p->to = cow_compressed_encode(k->off + at, p->bytes, e->g.cluster_bits);
	k->fill = cow_max(k->fill, end);
	return ret;
}

/* ---- all of them ---- */

/* Clusters that were taken for one that did not fit then. */
static int give_back_untouched(struct cow_compact_packed *k, struct cow_edit *e)
{
	uint64_t rest = k->bytes - k->touched;
	k->bytes = k->touched;
	return rest ? cow_edit_give_back(e, k->off + k->touched, rest) : 0;
}

static int move_one(struct cow_compact_packed *k, struct cow_edit *e, uint64_t i, uint64_t below,
		    uint64_t *last_at)
{
	struct cow_compact_payload *p = &k->p[i];
	const struct cow_compact_payload *last = i && k->bytes ? p - 1 : NULL;
	uint64_t at = place(k, last, *last_at, p);
	bool ok;
	int ret = fit(k, e, p, below, &at, &ok);
	if (!ret && !ok)
		ret = give_back_untouched(k, e);
	if (!ret && !ok)
		ret = begin(k, e, p, below, &at);
	if (ret || k->full)
		return ret;
	*last_at = at;
	return put(k, e, p, at);
}

static int need_buf(struct cow_compact_packed *k, struct cow_edit *e)
{
	if (!k->buf)
		k->buf = cow_buf_alloc((uint64_t)RUN_CLUSTERS << e->g.cluster_bits);
	return k->buf ? 0 : cow_error_no_memory(e->err);
}

int cow_compact_packed_move(struct cow_compact_packed *k, struct cow_edit *e, uint64_t below,
			    int (*before)(void *ctx, uint64_t bytes), void *ctx)
{
	uint64_t last_at = 0;
	int ret = 0;
	merge(k);
	if (k->nr)
		ret = need_buf(k, e);
	for (uint64_t i = 0; i < k->nr && !k->full && !ret; i++) {
		ret = before(ctx, k->p[i].bytes);
		if (!ret)
			ret = move_one(k, e, i, below, &last_at);
	}
	return ret ? ret : flush(k, e, k->bytes);
}

/* ---- new ones ---- */

int cow_compact_packed_put(struct cow_compact_packed *k, struct cow_edit *e, const uint8_t *data,
			   uint32_t bytes, uint32_t refs, uint64_t *word)
{
	const struct cow_compact_payload p = { .bytes = bytes, .refs = refs };
	const uint64_t below = e->max_clusters < UINT64_MAX >> e->g.cluster_bits
				       ? e->max_clusters << e->g.cluster_bits
				       : INT64_MAX;
	uint64_t at = k->fill;
	bool ok;
	*word = 0;
	int ret = k->full ? 0 : need_buf(k, e);
	if (ret || k->full)
		return ret;
	ret = fit(k, e, &p, below, &at, &ok);
	if (!ret && !ok)
		ret = give_back_untouched(k, e);
	if (!ret && !ok)
		ret = begin(k, e, &p, below, &at);
	if (ret || k->full)
		return ret;
	cow_assert(at + bytes <= k->bytes);
	memcpy(k->buf + at, data, bytes);
	k->fill = at + bytes;
	*word = cow_compressed_encode(k->off + at, bytes, e->g.cluster_bits);
	return count(k, e, at, at + bytes, refs);
}

int cow_compact_packed_end(struct cow_compact_packed *k, struct cow_edit *e)
{
	int ret = give_back_untouched(k, e);
	return ret ? ret : flush(k, e, k->bytes);
}
