/* SPDX-License-Identifier: MIT */
/*
 * The L2 tables of a live change: their references counted, their shadows written. See live.h for
 * why this may be done beside the requests.
 */
#include <errno.h>
#include <string.h>

#include "engine/format/map.h"
#include "engine/life/live_state.h"
#include "engine/life/live_tables.h"

/* A table that is being done. */
struct job {
	uint64_t idx, src;
	bool copied; /* its L1 entry says so */
	bool has_old;
	bool whole; /* not just what was written since it was last done */
	struct cow_shadow_part part;
};

static uint8_t *buf_of(const struct cow_live *x, unsigned k)
{
	return x->bufs + (size_t)k * x->image->core.g.cluster_bytes;
}

static uint8_t *old_of(const struct cow_live *x, unsigned k)
{
	return x->olds + (size_t)k * x->image->core.g.cluster_bytes;
}

static uint64_t cluster_of(const struct cow_live *x, uint64_t off)
{
	return off >> x->image->core.g.cluster_bits;
}

/* ---- which ---- */

static int check_l1(struct cow_live *x, uint64_t off, uint64_t idx, uint64_t entry)
{
	const char *fault = cow_map_l1_fault(&x->image->core.g, entry);
	if (!fault && (entry & QCOW2_OFFSET_MASK) >= x->image->core.file->size_bytes)
		fault = "L1 entry points past the end of the file";
	return fault ? cow_live_corrupt(x, off + idx * 8, fault) : 0;
}

/* Does table idx have to be done (again)? *job says how. */
static int look(struct cow_live *x, uint64_t idx, bool *todo, struct job *job)
{
	uint64_t entry = cow_table_get(&x->image->meta.l1, idx), src = entry & QCOW2_OFFSET_MASK;
	const struct cow_live_table *t = &x->tables[idx];
	*todo = false;
	if (!entry && !t->src)
		return 0;
	int ret = check_l1(x, x->image->meta.l1.off, idx, entry);
	if (ret)
		return ret;
	if (!src)
		return cow_live_corrupt(x, x->image->meta.l1.off + idx * 8, "an L2 table vanished");
	*todo = src != t->src || cow_written_test(&x->written, cluster_of(x, src));
	*job = (struct job){
		.idx = idx,
		.src = src,
		.copied = entry & QCOW2_COPIED,
		.has_old = x->s->what == COW_LIVE_CREATE && t->src,
		.whole = src != t->src || !t->shadow,
	};
	return 0;
}

/* The mark goes before the read: see written.h. */
static void start_reading(struct cow_live *x, struct job *job, unsigned k)
{
	const struct cow_live_table *t = &x->tables[job->idx];
	cow_assert(k < x->batch && job->idx < x->nr_tables);
	uint64_t parts = cow_written_take(&x->written, cluster_of(x, job->src));
	job->part = cow_live_span(x, job->whole ? cow_written_all(&x->written) : parts);
	cow_live_io(x, COW_IO_READ, job->src, buf_of(x, k), job->part);
	if (job->has_old)
		cow_live_io(x, COW_IO_READ, t->shadow ? t->shadow : t->src, old_of(x, k),
			    job->part);
}

/* ---- refcount of a table ---- */

/* As the file has it: never more than it is for long. */
static int table_refs(struct cow_live *x, uint64_t src, uint64_t *refs)
{
	const struct cow_geometry *g = &x->image->core.g;
	uint64_t cluster = cluster_of(x, src), b = cluster / g->refs_per_block;
	uint64_t block =
		b < x->image->meta.reftable.nr ? cow_table_get(&x->image->meta.reftable, b) : 0;
	uint64_t off = block + cluster % g->refs_per_block / g->refs_per_slice * g->slice_bytes;
	*refs = 0;
	if (!block)
		return 0;
	if (off != x->slice_off) {
		cow_live_ios_add(&x->ios, COW_IO_READ, off, x->slice, g->slice_bytes);
		int ret = cow_live_ios_wait(&x->ios);
		if (ret)
			return cow_error_set(x->err, ret, "refcount block at offset %llu: %s",
					     (unsigned long long)block, strerror(-ret));
		x->slice_off = off;
	}
	*refs = cow_refcount_get(x->slice, g->refcount_order, cluster % g->refs_per_slice);
	return 0;
}

/* ---- one table ---- */

static int write_shadow(struct cow_live *x, const struct job *job, unsigned k)
{
	struct cow_live_table *t = &x->tables[job->idx];
	if (!t->shadow) {
		int ret = cow_live_space_take(&x->space, &t->shadow);
		if (ret)
			return cow_live_trouble(x, ret);
	}
	cow_live_io(x, COW_IO_WRITE, t->shadow, buf_of(x, k), job->part);
	return 0;
}

/*
 * The table is to be reached from L1 and from its copy. A shadow takes both ways: one more than it
 * is counted. So does a shared table that stays, which the snapshots before this one keep.
 */
static int move_ways(struct cow_live *x, uint64_t from, uint64_t to)
{
	cow_assert(to && x->s->what == COW_LIVE_CREATE);
	int ret = to == from ? 0 : cow_delta_add(&x->delta, cluster_of(x, to), 1);
	if (!ret && from && to != from)
		ret = cow_delta_add(&x->delta, cluster_of(x, from), -1);
	return cow_live_trouble(x, ret);
}

static int create_one(struct cow_live *x, const struct job *job, unsigned k)
{
	const struct cow_geometry *g = &x->image->core.g;
	struct cow_live_table *t = &x->tables[job->idx];
	uint64_t refs = 0, was = t->shadow ? t->shadow : t->src;
	bool own = t->shadow || job->copied || cow_shadow_has_copied(g, buf_of(x, k));
	int ret = own ? 0 : table_refs(x, job->src, &refs);
	if (!ret)
		ret = cow_live_trouble(x, cow_shadow_count(&x->delta, g,
							   job->has_old ? old_of(x, k) : NULL,
							   buf_of(x, k), job->part, 1));
	if (!ret && (own || refs < 2)) {
		cow_shadow_clear_copied(g, buf_of(x, k), job->part);
		ret = write_shadow(x, job, k);
	}
	if (!ret)
		ret = move_ways(x, was, t->shadow ? t->shadow : job->src);
	t->src = job->src;
	return ret;
}

/* The old table's references by L1 goes when the old table is freed. */
static int delete_one(struct cow_live *x, const struct job *job, unsigned k)
{
	struct cow_live_table *t = &x->tables[job->idx];
	bool changed = cow_shadow_set_copied(&x->image->core.g, &x->delta, buf_of(x, k), job->part);
	t->src = job->src;
	return changed || t->shadow ? write_shadow(x, job, k) : 0;
}

/* What looks broken may be half written: it is looked at again. */
static int do_one(struct cow_live *x, const struct job *job, unsigned k)
{
	uint32_t at;
	const char *fault = cow_shadow_fault(&x->image->core.g, buf_of(x, k), job->part, &at);
	if (fault && x->frozen)
		return cow_live_corrupt(x, job->src + at, fault);
	if (fault) {
		cow_written_note(&x->written, job->src, x->image->core.g.cluster_bytes);
		return 0;
	}
	x->nr_done += cow_live_parts_in(x, job->part);
	return x->s->what == COW_LIVE_CREATE ? create_one(x, job, k) : delete_one(x, job, k);
}

static int do_some(struct cow_live *x, const struct job *jobs, unsigned nr)
{
	cow_assert(nr <= x->batch);
	int ret = cow_live_begin_batch(x, "L2 tables");
	for (unsigned k = 0; k < nr && !ret; k++)
		ret = do_one(x, &jobs[k], k);
	return cow_live_end_batch(x, ret);
}

int cow_live_do_tables(struct cow_live *x)
{
	struct job jobs[COW_LIVE_BATCH];
	unsigned nr = 0;
	int ret = 0;
	cow_assert(!x->switched && !x->ios.pending);
	x->slice_off = 0;
	for (uint64_t i = 0; i < x->nr_tables && !ret; i++) {
		bool todo;
		ret = look(x, i, &todo, &jobs[nr]);
		if (!ret && todo)
			start_reading(x, &jobs[nr], nr), nr++;
		if (!ret && nr == x->batch) {
			ret = cow_live_cancelled(x) ? -ECANCELED : do_some(x, jobs, nr);
			nr = 0;
		}
	}
	int last = cow_live_ios_wait(&x->ios); /* none is left in flight */
	if (ret)
		return ret;
	if (last)
		return cow_error_set(x->err, last, "cannot read L2 tables: %s", strerror(-last));
	return do_some(x, jobs, nr);
}

/* ---- the snapshot that goes ---- */

static int count_some(struct cow_live *x, const uint64_t *tables, unsigned nr)
{
	const struct cow_shadow_part whole = { 0, x->image->core.g.cluster_bytes };
	int ret = cow_live_ios_wait(&x->ios);
	if (ret)
		return cow_error_set(x->err, ret, "cannot read L2 tables: %s", strerror(-ret));
	for (unsigned k = 0; k < nr && !ret; k++) {
		uint32_t at;
		const char *fault = cow_shadow_fault(&x->image->core.g, buf_of(x, k), whole, &at);
		if (fault)
			return cow_live_corrupt(x, tables[k] + at, fault);
		ret = cow_delta_add(&x->delta, cluster_of(x, tables[k]), -1);
		if (!ret)
			ret = cow_shadow_count(&x->delta, &x->image->core.g, NULL, buf_of(x, k),
					       whole, -1);
	}
	return cow_live_trouble(x, ret);
}

/* Nobody changes what a snapshot has: once is enough. */
int cow_live_count_victim(struct cow_live *x)
{
	uint64_t tables[COW_LIVE_BATCH];
	unsigned nr = 0;
	int ret = 0;
	cow_assert(!x->frozen && x->s->what == COW_LIVE_DELETE);
	for (uint64_t i = 0; i < x->victim.l1_entries && !ret; i++) {
		uint64_t table = x->victim_l1[i] & QCOW2_OFFSET_MASK;
		ret = check_l1(x, x->victim.l1_off, i, x->victim_l1[i]);
		if (ret || !table)
			continue;
		tables[nr] = table;
		cow_live_ios_add(&x->ios, COW_IO_READ, table, buf_of(x, nr++),
				 x->image->core.g.cluster_bytes);
		if (nr == x->batch) {
			ret = cow_live_cancelled(x) ? -ECANCELED : count_some(x, tables, nr);
			nr = 0;
		}
	}
	int last = ret ? cow_live_ios_wait(&x->ios) : count_some(x, tables, nr);
	return ret ? ret : last;
}
