/* SPDX-License-Identifier: MIT */
/* See compact_squeeze.h. In this order: tables' lengths; free clusters. */
#include "engine/edit/compact_squeeze.h"

#include "engine/base/full.h"
#include "engine/base/math.h"
#include "engine/edit/compact_step.h"
#include "engine/edit/edit_refcount.h"

static uint64_t clusters_of(const struct cow_edit *e, uint64_t bytes)
{
	return (bytes + e->g.cluster_bytes - 1) >> e->g.cluster_bits;
}

/* ---- tables' lengths ---- */

static uint32_t l1_entries_needed(const struct cow_edit *e)
{
	uint64_t need = cow_max(cow_header_l1_entries(&e->header, e->header.size_bytes), 1);
	uint32_t nr = e->header.l1_entries;
	while (nr > need && !e->l1[nr - 1])
		nr--;
	return nr;
}

static int shorten(struct cow_compact_step *s)
{
	struct cow_edit *e = &s->e;
	uint32_t was = e->header.l1_entries, need = l1_entries_needed(e);
	if (clusters_of(e, (uint64_t)need * 8) < clusters_of(e, (uint64_t)was * 8)) {
		e->header.l1_entries = need;
		e->l1_changed = true;
	}
	int ret = cow_edit_move_l1(e, was);
	if (!ret)
		ret = cow_edit_drop_blocks(e);
	if (ret || (!e->l1_changed && cow_edit_reftable_clusters(e) >= e->header.reftable_clusters))
		return ret;
	return cow_edit_commit(e);
}

int cow_compact_shorten_tables(struct cow_loop *loop, struct cow_file *file,
			       const struct cow_compact_options *options,
			       struct cow_compact_result *result, struct cow_error *err)
{
	struct cow_compact_step s = { .options = options, .result = result };
	int ret = cow_compact_step_open(&s, loop, file, err);
	if (!ret) {
		result->bytes_before = cow_max(result->bytes_before, s.end << s.e.g.cluster_bits);
		ret = shorten(&s);
	}
	cow_compact_step_close(&s);
	return ret;
}

/* ---- free clusters ---- */

static uint64_t if_several(uint64_t clusters)
{
	return clusters > 1 ? clusters : 0;
}

/* Tables of several clusters may not fit into what is free: so many are not worth it. */
static uint64_t may_remain(const struct cow_compact_step *s)
{
	const struct cow_edit *e = &s->e;
	uint64_t nr = if_several(clusters_of(e, (uint64_t)e->header.l1_entries * 8)) +
		      if_several(e->header.reftable_clusters) +
		      if_several(clusters_of(e, e->snapshots_bytes)) +
		      if_several(s->bitmaps.clusters);
	for (uint32_t i = 0; i < e->header.nr_snapshots; i++)
		nr += if_several(clusters_of(e, (uint64_t)e->snapshots[i].l1_entries * 8));
	return nr;
}

static int lift(struct cow_loop *loop, struct cow_file *file,
		const struct cow_compact_options *options, struct cow_compact_result *result,
		bool *lifted, struct cow_error *err)
{
	struct cow_compact_step s = { .options = options, .result = result };
	int ret = cow_compact_step_open(&s, loop, file, err);
	uint64_t gap = ret ? 0 : s.end - cow_compact_step_least(&s);
	*lifted = gap > may_remain(&s) && gap < COW_COMPACT_STEP_MOST && !file->block_device;
	if (!ret && *lifted)
		ret = cow_compact_step_lift(&s);
	cow_compact_step_close(&s);
	return ret;
}

static int drop(struct cow_loop *loop, struct cow_file *file,
		const struct cow_compact_options *options, struct cow_compact_result *result,
		struct cow_error *err)
{
	struct cow_compact_step s = { .options = options, .result = result };
	uint64_t gained;
	int ret = cow_compact_step_open(&s, loop, file, err);
	s.all = true;
	if (!ret)
		ret = cow_compact_step_run(&s, &gained);
	cow_compact_step_close(&s);
	return ret;
}

int cow_compact_squeeze(struct cow_loop *loop, struct cow_file *file,
			const struct cow_compact_options *options,
			struct cow_compact_result *result, struct cow_error *err)
{
	bool lifted;
	int ret = lift(loop, file, options, result, &lifted, err);
	if (!ret && lifted)
		ret = drop(loop, file, options, result, err);
	if (!cow_full_is(ret))
		return ret;
	*err = (struct cow_error){ 0 };
	return 0;
}
