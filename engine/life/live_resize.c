/* SPDX-License-Identifier: MIT */
/*
 * See live_resize.h. In this order: what stands in the way; beside the requests; under the
 * freeze: all is written back, the file says what memory knows; growing; shrinking.
 */
#include "engine/life/live_resize.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/full.h"
#include "engine/base/log.h"
#include "engine/core/load.h"
#include "engine/core/switch.h"
#include "engine/format/map.h"
#include "engine/life/close.h"
#include "engine/life/freeze.h"
#include "engine/life/live_state.h"
#include "engine/request/kind.h"
#include "engine/request/queue.h"
#include "engine/snapshot/snapshot_list.h"

#define DISCARD_BYTES (1ull << 30)
#define EXTRA_SIZES_BYTES 16u /* of a snapshot's extra data: VM state size, disk size */

struct growth {
	struct cow_image *image;
	struct cow_loop *loop;
	struct cow_live_space space;
	uint64_t size_bytes, old_bytes;
	uint64_t l1_off; /* of the longer table; 0: the one that there is will do */
	uint32_t l1_entries;
	struct cow_header old; /* as it was before the switch */
	bool switched;
};

/* ---- what stands in the way ---- */

static int check_snapshots(struct growth *x, struct cow_error *err)
{
	const struct cow_header *h = &x->image->core.header;
	struct cow_snapshot *list = NULL;
	uint64_t bytes;
	bool lacking = false;
	if (!h->nr_snapshots)
		return 0;
	int ret = cow_load_snapshots(x->loop, x->image->core.file, h, &list, &bytes, err);
	if (ret)
		return ret;
	for (uint32_t i = 0; i < h->nr_snapshots; i++)
		lacking |= list[i].extra_bytes < EXTRA_SIZES_BYTES;
	cow_snapshots_free(list, h->nr_snapshots);
	return lacking ? cow_error_set(err, -ENOTSUP,
				       "a snapshot of it does not say what size it has: resize it "
				       "while it is detached")
		       : 0;
}

static int check_vm_state(struct growth *x, struct cow_error *err)
{
	const struct cow_image *image = x->image;
	const struct cow_table *l1 = &image->meta.l1;
	for (uint64_t i = cow_header_l1_entries(&image->core.header, x->old_bytes); i < l1->nr; i++)
		if (cow_table_get(l1, i))
			return cow_error_set(err, -ENOTSUP,
					     "the disk has VM state behind its end: detach it and "
					     "use qemu-img resize");
	return 0;
}

static int check(struct growth *x, struct cow_error *err)
{
	const struct cow_image *image = x->image;
	int ret = check_vm_state(x, err);
	if (ret)
		return ret;
	if (image->backing && cow_core_size_bytes(&image->backing->core) > x->old_bytes)
		return cow_error_set(err, -ENOTSUP,
				     "its backing file is longer than the disk, and would show "
				     "behind its old end: detach it and use qemu-img resize, which "
				     "writes zeros there");
	return check_snapshots(x, err);
}

/* ---- beside the requests ---- */

static uint32_t clusters_of(const struct growth *x, uint64_t l1_entries)
{
	const struct cow_geometry *g = &x->image->core.g;
	return (uint32_t)((l1_entries * 8 + g->cluster_bytes - 1) >> g->cluster_bits);
}

static int prepare(struct growth *x)
{
	const struct cow_header *h = &x->image->core.header;
	uint64_t need = cow_header_l1_entries(h, x->size_bytes);
	int ret = cow_live_say_writing(x->image, x->loop);
	x->l1_entries = (uint32_t)cow_max(need, h->l1_entries);
	if (!ret && need > h->l1_entries)
		ret = cow_live_space_take_run(&x->space, clusters_of(x, need), &x->l1_off);
	/* What the freeze would wait for otherwise. */
	if (!ret)
		ret = cow_live_space_drain(&x->space, NULL);
	return ret ? ret : cow_image_write_back(x->image, x->loop);
}

/* ---- under the freeze: all is written back, the file says what memory knows ---- */

/* The L2 entry of the cluster that the disk ends in, if its table is the active image's alone; 0: it is not. */
static int read_last_entry(struct growth *x, struct cow_l2_entry *entry)
{
	const struct cow_geometry *g = &x->image->core.g;
	uint64_t cluster = x->old_bytes >> g->cluster_bits;
	uint64_t at = (cluster & ((1ull << g->l2_bits) - 1)) * g->entry_bytes;
	uint64_t l1 = cow_table_get(&x->image->meta.l1, cluster >> g->l2_bits);
	*entry = (struct cow_l2_entry){ 0 };
	if (!(l1 & QCOW2_COPIED) || cow_map_l1_fault(g, l1))
		return 0;
	uint8_t *sector = cow_buf_alloc(512);
	if (!sector)
		return -ENOMEM;
	int ret = cow_loop_read(x->loop, x->image->core.file,
				(l1 & QCOW2_OFFSET_MASK) + cow_round_down(at, 512), sector, 512);
	if (!ret)
		*entry = cow_entry_get(g, sector, (uint32_t)(at % 512 / g->entry_bytes));
	free(sector);
	return ret;
}

/*
 * A disk that was made smaller may end inside a cluster with data behind its end, which is nobody's
 * until the disk grows over it. As of a closed image: encrypted, compressed or shared it stays.
 */
static int clear_tail(struct growth *x)
{
	struct cow_core *core = &x->image->core;
	uint64_t used = cow_in_cluster(&core->g, x->old_bytes),
		 bytes = core->g.cluster_bytes - used;
	struct cow_l2_entry raw;
	if (!used || cow_core_header(core).crypt_method)
		return 0;
	int ret = read_last_entry(x, &raw);
	struct cow_entry entry = cow_entry_decode(&core->g, raw, 0);
	if (ret || entry.kind == COW_BAD || entry.kind == COW_COMPRESSED || !entry.has_host ||
	    !entry.copied)
		return ret;
	uint64_t off = entry.host.v;
	if (cow_overlap(&x->image->meta, off, core->g.cluster_bytes))
		return cow_core_corrupt(core, x->loop, off, "a data cluster overlaps metadata");
	if (off + used >= core->file->size_bytes)
		return 0; /* there is nothing; but the file may end anywhere in the cluster */
	return cow_loop_write(x->loop, core->file, off + used, core->zeros, bytes);
}

static int write_l1(struct growth *x)
{
	const struct cow_table *l1 = &x->image->meta.l1;
	uint64_t bytes = (uint64_t)clusters_of(x, x->l1_entries) << x->image->core.g.cluster_bits;
	if (!x->l1_off)
		return 0;
	uint8_t *raw = cow_buf_alloc(bytes); /* zeroed */
	if (!raw)
		return -ENOMEM;
	cow_table_encode(l1, 0, l1->nr, raw);
	int ret = cow_loop_write(x->loop, x->image->core.file, x->l1_off, raw, bytes);
	free(raw);
	return ret;
}

static int write_header(struct growth *x)
{
	struct cow_core *core = &x->image->core;
	struct cow_header h = cow_core_header(core);
	uint8_t sector[COW_SWITCH_BYTES];
	bool begun;
	x->old = h;
	h.size_bytes = x->size_bytes;
	h.l1_entries = x->l1_entries;
	h.l1_off = x->l1_off ? x->l1_off : h.l1_off;
	memcpy(sector, core->header_sector, sizeof(sector));
	cow_header_encode(&h, sector, sizeof(sector));
	return cow_switch_header(x->loop, core->file, sector, &begun);
}

static void set_size(struct cow_image *image, uint64_t bytes)
{
	cow_core_set_size_bytes(&image->core, bytes);
	image->public_geometry.size_bytes = bytes;
}

static int switch_over(void *ctx, struct cow_loop *loop, struct cow_file *file,
		       struct cow_error *err)
{
	struct growth *x = ctx;
	cow_assert(cow_gate_is_shut(&x->image->gate));
	int ret = clear_tail(x);
	if (!ret)
		ret = write_l1(x);
	if (!ret)
		ret = write_header(x);
	if (ret)
		return cow_error_set(err, ret, "cannot read or write: %s",
				     strerror(ret == -ENOTRECOVERABLE ? EIO : -ret));
	x->switched = true;
	set_size(x->image, x->size_bytes);
	return 0;
}

/* ---- growing ---- */

/* A disk of 0 bytes may not have had one. */
static void free_old_l1(struct growth *x)
{
	if (!x->l1_off || !x->switched || !x->old.l1_entries || cow_core_is_failed(&x->image->core))
		return;
	if (cow_live_space_free(&x->space, x->old.l1_off >> x->image->core.g.cluster_bits,
				clusters_of(x, x->old.l1_entries)))
		cow_log(COW_LOG_WARNING,
			"%s: its old L1 table is leaked: cowblk check --repair leaks gives it back",
			x->image->core.path);
}

static int grow_beside(struct growth *x, uint64_t *pause_ns, struct cow_error *err)
{
	cow_live_space_init(&x->space, x->image, x->loop);
	int ret = prepare(x);
	if (!ret)
		ret = cow_freeze_switch(x->image, x->loop, switch_over, x, pause_ns, err);
	free_old_l1(x);
	if (!x->switched)
		cow_live_space_undo(&x->space);
	cow_live_space_fini(&x->space);
	return ret;
}

static int change_closed(void *ctx, struct cow_loop *loop, struct cow_file *file,
			 struct cow_error *err)
{
	struct growth *x = ctx;
	const struct cow_image *backing = x->image->backing;
	uint64_t backing_bytes = backing ? cow_core_size_bytes(&backing->core) : 0;
	const struct cow_resize_options options = { .bytes = x->size_bytes,
						    .shrink = x->size_bytes < x->old_bytes,
						    .backing_bytes = &backing_bytes };
	int ret = cow_resize(loop, file, &options, err);
	if (!ret)
		set_size(x->image, x->size_bytes);
	return ret;
}

static int grow(struct growth *x, uint64_t *pause_ns, struct cow_error *err)
{
	int ret = check(x, err);
	if (!ret)
		ret = grow_beside(x, pause_ns, err);
	if (cow_full_is(ret) && !x->switched && !cow_core_is_failed(&x->image->core)) {
		*err = (struct cow_error){ 0 };
		ret = cow_freeze_rewrite(x->image, x->loop, change_closed, x, pause_ns, err);
	}
	cow_freeze_leave_loop(x->image, x->loop);
	return ret;
}

/* ---- shrinking ---- */

static int discard(struct cow_queue *queue, uint64_t off, uint64_t end)
{
	int ret = 0;
	for (; off < end && !ret; off += DISCARD_BYTES)
		ret = cow_queue_do(queue, COW_OP_DISCARD, 0, off, cow_min(end - off, DISCARD_BYTES),
				   NULL);
	return ret;
}

/*
 * Beside the requests, or all would wait for it. Nobody reads there any more. What cannot be freed
 * now, since the host is full or there are as many queues as can be, is freed with the change.
 */
static int free_tail(struct growth *x)
{
	uint64_t first = cow_round_up(x->size_bytes, x->image->core.g.cluster_bytes);
	struct cow_queue *queue;
	int ret = cow_queue_new(x->image, x->loop, 1, &queue);
	if (ret)
		return ret == -EMFILE ? 0 : ret;
	ret = discard(queue, first, x->old_bytes);
	cow_queue_free(queue);
	return cow_full_is(ret) ? 0 : ret;
}

/* What the freeze would wait for otherwise. */
static int settle(struct growth *x)
{
	cow_live_space_init(&x->space, x->image, x->loop);
	int ret = cow_live_space_drain(&x->space, NULL);
	cow_live_space_fini(&x->space);
	return ret ? ret : cow_image_write_back(x->image, x->loop);
}

static int shrink(struct growth *x, uint64_t *pause_ns, struct cow_error *err)
{
	int ret = check_vm_state(x, err);
	if (!ret)
		ret = free_tail(x);
	if (!ret)
		ret = settle(x);
	if (!ret)
		ret = cow_freeze_rewrite(x->image, x->loop, change_closed, x, pause_ns, err);
	cow_freeze_leave_loop(x->image, x->loop);
	return ret;
}

int cow_image_resize(struct cow_image *image, struct cow_loop *loop,
		     const struct cow_resize_options *options, uint64_t *size_bytes,
		     uint64_t *pause_ns, struct cow_error *err)
{
	struct growth x = { .image = image, .loop = loop };
	x.old_bytes = *size_bytes = cow_core_size_bytes(&image->core);
	*pause_ns = 0;
	int ret = cow_freeze_begin(image, err);
	if (ret)
		return ret;
	ret = cow_resize_check(&image->core.header, &image->core.ext, options, &x.size_bytes, err);
	if (!ret && x.size_bytes > x.old_bytes)
		ret = grow(&x, pause_ns, err);
	if (!ret && x.size_bytes < x.old_bytes)
		ret = shrink(&x, pause_ns, err);
	*size_bytes = cow_core_size_bytes(&image->core);
	cow_freeze_end(image);
	return ret ? cow_error_set(err, ret, "%s: %s", image->core.path, strerror(-ret)) : 0;
}
