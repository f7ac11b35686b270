/* SPDX-License-Identifier: MIT */
/* See live.h: set-up, the rounds beside the requests, what is freed, the change as a whole. */
#include "engine/life/live.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/base/full.h"
#include "engine/base/log.h"
#include "engine/core/load.h"
#include "engine/life/close.h"
#include "engine/life/freeze.h"
#include "engine/life/live_refs.h"
#include "engine/life/live_state.h"
#include "engine/life/live_switch.h"
#include "engine/life/live_tables.h"
#include "engine/snapshot/snapshot_list.h"
#include "engine/snapshot/snapshot_select.h"

/* Rounds beside the requests end when few parts are left (limits.live_few), or when they get no fewer. */
#define MAX_ROUNDS 24u
#define MAX_IN_VAIN 6u
/* Buffers: twice so much. */
#define BUF_BYTES (1ull << 20)

/* ---- set-up ---- */

static void count_changed(void *ctx, uint64_t cluster)
{
	struct cow_live *x = ctx;
	uint64_t b = cluster / x->image->core.g.refs_per_block;
	uint64_t in_block =
		cluster % x->image->core.g.refs_per_block << x->image->core.g.refcount_order >> 3;
	cow_assert(in_block >> x->written.part_bits < 64);
	if (b < x->max_blocks)
		x->blocks[b].stale |= 1ull << (in_block >> x->written.part_bits);
	else
		x->outside = true;
}

static int alloc_memory(struct cow_live *x)
{
	const struct cow_geometry *g = &x->image->core.g;
	x->batch = (uint32_t)cow_min(cow_max(BUF_BYTES >> g->cluster_bits, 1), COW_LIVE_BATCH);
	x->nr_tables = x->image->meta.l1.nr;
	x->max_blocks =
		cow_min(x->image->meta.reftable.nr * 2 + 64, x->image->meta.reftable.capacity);
	x->delta.nr_clusters = x->max_blocks * g->refs_per_block;
	x->tables = calloc(x->nr_tables + 1, sizeof(*x->tables));
	x->blocks = calloc(x->max_blocks, sizeof(*x->blocks));
	x->bufs = cow_buf_alloc((size_t)x->batch << g->cluster_bits);
	x->olds = cow_buf_alloc((size_t)x->batch << g->cluster_bits);
	x->slice = cow_buf_alloc(g->slice_bytes);
	int ret = x->tables && x->blocks && x->bufs && x->olds && x->slice ? 0 : -ENOMEM;
	if (!ret)
		ret = cow_written_init(&x->written, g->cluster_bits,
				       (unsigned)__builtin_ctz(g->slice_bytes),
				       2 * (x->nr_tables + x->max_blocks));
	x->s->peak_bytes = x->nr_tables * sizeof(*x->tables) + x->max_blocks * sizeof(*x->blocks) +
			   x->written.nr * sizeof(*x->written.entries) +
			   ((2ull * x->batch) << g->cluster_bits);
	return cow_live_trouble(x, ret);
}

static int choose_victim(struct cow_live *x)
{
	struct cow_file *file = x->image->core.file;
	uint32_t idx;
	int ret = cow_snapshot_find(x->snapshots, x->header.nr_snapshots, &x->s->key, &idx, x->err);
	if (!ret)
		ret = cow_snapshot_verify_l1(&x->snapshots[idx], &x->header, file->size_bytes,
					     x->err);
	if (!ret)
		ret = cow_snapshot_lock_exclusive(file, &x->snapshots[idx], x->err);
	if (ret)
		return ret;
	x->victim = x->snapshots[idx];
	x->victim.id = strdup(x->victim.id);
	x->victim.name = strdup(x->victim.name);
	cow_snapshot_list_remove(x->snapshots, &x->header, idx);
	return x->victim.id && x->victim.name ? 0 : cow_live_trouble(x, -ENOMEM);
}

static int load_victim(struct cow_live *x)
{
	uint64_t bytes = x->victim.l1_entries * 8ull;
	uint8_t *raw = cow_buf_alloc(bytes + 8);
	x->victim_l1 = raw ? malloc(bytes + 8) : NULL;
	int ret = x->victim_l1 ? 0 : -ENOMEM;
	if (!ret && bytes)
		ret = cow_loop_read(x->loop, x->image->core.file, x->victim.l1_off, raw, bytes);
	for (uint64_t i = 0; i < x->victim.l1_entries && !ret; i++)
		x->victim_l1[i] = cow_load64_be(raw + i * 8);
	free(raw);
	return cow_live_trouble(x, ret);
}

static int choose(struct cow_live *x)
{
	const struct cow_snapshot_date later = { 0 };
	x->header = cow_core_header(&x->image->core);
	if (x->header.incompatible & QCOW2_INCOMPAT_DATA_FILE)
		return cow_error_set(
			x->err, -ENOTSUP,
			"images with an external data file cannot have internal snapshots");
	int ret = cow_load_snapshots(x->loop, x->image->core.file, &x->header, &x->snapshots,
				     &x->old_snapshots_bytes, x->err);
	if (ret)
		return ret;
	if (x->s->what == COW_LIVE_DELETE)
		return choose_victim(x);
	ret = cow_snapshot_list_may_add(x->snapshots, &x->header, x->s->key.text, x->err);
	return ret ? ret
		   : cow_snapshot_list_add(&x->snapshots, &x->header, x->s->key.text, &later,
					   x->err);
}

static void fini(struct cow_live *x)
{
	if (x->victim.id)
		cow_snapshot_unlock(x->image->core.file, &x->victim);
	cow_writeback_watch(&x->image->meta.writeback, NULL);
	cow_written_fini(&x->written);
	cow_delta_fini(&x->delta);
	cow_snapshots_free(x->snapshots, x->header.nr_snapshots);
	free(x->victim.id);
	free(x->victim.name);
	free(x->victim_l1);
	free(x->tables);
	free(x->blocks);
	free(x->bufs);
	free(x->olds);
	free(x->slice);
}

/* ---- beside the requests ---- */

static int one_round(struct cow_live *x)
{
	x->nr_done = 0;
	int ret = cow_live_do_tables(x);
	if (!ret)
		ret = cow_live_do_blocks(x);
	cow_live_brake_off(&x->brake);
	if (ret)
		return ret;
	return cow_live_cancelled(x) ? cow_error_set(x->err, -ECANCELED, "given up") : 0;
}

static int all_rounds(struct cow_live *x)
{
	unsigned fewest = UINT32_MAX, in_vain = 0, last = UINT32_MAX;
	int ret = 0;
	cow_assert(!x->frozen);
	x->brake.level = cow_max(x->brake.level, x->image->core.limits.live_brake);
	for (unsigned i = 0; i < MAX_ROUNDS && !ret; i++) {
		ret = cow_live_space_prepare(&x->space);
		if (!ret)
			ret = cow_live_space_drain(&x->space, x->s->cancel);
		if (!ret) /* what changed in memory only becomes known; the shadows become durable */
			ret = cow_image_write_back(x->image, x->loop);
		if (ret)
			return cow_live_trouble(x, ret);
		ret = one_round(x);
		cow_log(COW_LOG_DEBUG, "%s: snapshot: round %u beside the requests: %u slices",
			x->image->core.path, i + 1, x->nr_done);
		if (i && x->nr_done <= x->image->core.limits.live_few)
			break;
		if (i && x->nr_done > last / 2)
			cow_live_brake_harder(&x->brake);
		last = x->nr_done;
		if (x->nr_done < fewest - fewest / 8) {
			fewest = x->nr_done;
			in_vain = 0;
		} else if (++in_vain == MAX_IN_VAIN) {
			break;
		}
	}
	return ret;
}

/* DELETE: which clusters will have one reference is known once refcount blocks are done. */
static int prepare(struct cow_live *x)
{
	cow_writeback_watch(&x->image->meta.writeback, &x->written);
	int ret = cow_live_trouble(x, cow_live_say_writing(x->image, x->loop));
	if (!ret)
		ret = cow_live_find_places(x);
	if (!ret && x->s->what == COW_LIVE_DELETE) {
		ret = load_victim(x);
		if (!ret)
			ret = cow_live_count_victim(x);
		if (!ret)
			ret = cow_live_trouble(x, cow_image_write_back(x->image, x->loop));
		if (!ret)
			ret = cow_live_do_blocks(x);
	}
	if (!ret)
		ret = all_rounds(x);
	return ret ? ret : cow_live_trouble(x, cow_live_space_drain(&x->space, x->s->cancel));
}

/* ---- afterwards ---- */

static int free_piece(struct cow_live *x, uint64_t off, uint64_t bytes)
{
	uint32_t nr = cow_live_clusters(x, bytes);
	return off && nr ? cow_live_space_free(&x->space, off >> x->image->core.g.cluster_bits, nr)
			 : 0;
}

static int free_tables(struct cow_live *x, const struct cow_live_table *list, uint64_t nr)
{
	int ret = 0;
	for (uint64_t i = 0; i < nr && !ret; i++)
		if (list[i].shadow && list[i].src)
			ret = free_piece(x, list[i].src, x->image->core.g.cluster_bytes);
	return ret;
}

/* What fails here is leaked. */
static int free_old(struct cow_live *x)
{
	const struct cow_header *h = &x->old;
	cow_assert(x->switched && !x->space.frozen);
	int ret = free_tables(x, x->tables, x->nr_tables);
	if (!ret && x->s->what == COW_LIVE_DELETE)
		ret = cow_live_free_victim(x);
	if (!ret) /* only now: they say what the snapshot's clusters counted */
		ret = free_tables(x, x->blocks, x->max_blocks);
	if (!ret && x->l1_off)
		ret = free_piece(x, h->l1_off, h->l1_entries * 8ull);
	if (!ret)
		ret = free_piece(x, h->reftable_off,
				 (uint64_t)h->reftable_clusters << h->cluster_bits);
	if (!ret)
		ret = free_piece(x, h->snapshots_off, x->old_snapshots_bytes);
	if (!ret && x->s->what == COW_LIVE_DELETE)
		ret = free_piece(x, x->victim.l1_off, x->victim.l1_entries * 8ull);
	return ret;
}

/* ---- the change ---- */

static int switch_over(void *ctx, struct cow_loop *loop, struct cow_file *file,
		       struct cow_error *err)
{
	return cow_live_switch(ctx);
}

static int say_ready(struct cow_live_snapshot *s)
{
	if (!s->ready || s->was_ready)
		return 0;
	s->was_ready = true;
	return s->ready(s->ctx);
}

static int change(struct cow_live *x)
{
	int ret = prepare(x);
	if (!ret && x->s->ready) {
		ret = say_ready(x->s);
		if (!ret) /* what was written in the meantime */
			ret = all_rounds(x);
	}
	if (!ret)
		ret = cow_freeze_switch(x->image, x->loop, switch_over, x, &x->s->pause_ns, x->err);
	cow_writeback_watch(&x->image->meta.writeback, NULL);
	if (x->switched && !cow_core_is_failed(&x->image->core) && free_old(x))
		cow_log(COW_LOG_WARNING,
			"%s: what the snapshot freed is leaked: cowblk check "
			"--repair leaks gives it back",
			x->image->core.path);
	if (x->switched && !ret && x->s->what == COW_LIVE_CREATE)
		x->s->id = strdup(x->snapshots[x->header.nr_snapshots - 1].id);
	x->s->peak_bytes += x->delta.bytes;
	return ret;
}

static int change_beside(struct cow_image *image, struct cow_loop *loop,
			 struct cow_live_snapshot *s, struct cow_error *err)
{
	struct cow_live *x = calloc(1, sizeof(*x));
	if (!x)
		return cow_error_no_memory(err);
	x->image = image;
	x->loop = loop;
	x->s = s;
	x->err = err;
	cow_live_ios_init(&x->ios, loop, image->core.file);
	cow_delta_init(&x->delta);
	x->delta.changed = count_changed;
	x->delta.ctx = x;
	x->brake.gate = &image->gate;
	cow_live_space_init(&x->space, image, loop);
	x->space.brake = &x->brake;
	int ret = choose(x);
	if (!ret)
		ret = alloc_memory(x);
	if (!ret)
		ret = change(x);
	if (!x->switched)
		cow_live_space_undo(&x->space);
	cow_live_space_fini(&x->space);
	fini(x);
	free(x);
	return ret;
}

/* ---- all under the freeze ---- */

static int change_closed(void *ctx, struct cow_loop *loop, struct cow_file *file,
			 struct cow_error *err)
{
	struct cow_live_snapshot *s = ctx;
	struct cow_snapshot_date date = { 0 };
	if (s->what == COW_LIVE_DELETE)
		return cow_snapshot_delete(loop, file, &s->key, err);
	if (s->moment)
		s->moment(s->ctx, &date);
	return cow_snapshot_create(loop, file, s->key.text, &date, &s->id, err);
}

int cow_image_change_snapshot(struct cow_image *image, struct cow_loop *loop,
			      struct cow_live_snapshot *s, struct cow_error *err)
{
	int ret = cow_freeze_begin(image, err);
	if (ret)
		return ret;
	ret = change_beside(image, loop, s, err);
	/* -EOVERFLOW: an entry that leads nowhere; the other way says which. */
	if ((cow_full_is(ret) || ret == -EAGAIN || ret == -EOVERFLOW) &&
	    !cow_core_is_failed(&image->core)) {
		s->all_frozen = true;
		*err = (struct cow_error){ 0 };
		ret = say_ready(s);
		if (!ret)
			ret = cow_freeze_rewrite(image, loop, change_closed, s, &s->pause_ns, err);
	}
	cow_freeze_leave_loop(image, loop);
	cow_freeze_end(image);
	return ret ? cow_error_set(err, ret, "%s: %s", image->core.path, strerror(-ret)) : 0;
}
