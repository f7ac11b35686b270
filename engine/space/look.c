/* SPDX-License-Identifier: MIT */
#include "engine/space/look.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/host/file.h"
#include "engine/loop/loop.h"
#include "engine/meta/table.h"

#define MAX_BYTES (256u << 10) /* of buffers, where a cluster is not larger */

int cow_look_init(struct cow_alloc *alloc)
{
	uint32_t cluster_bytes = alloc->g->cluster_bytes;
	alloc->nr_looks = (unsigned)cow_min(cow_max(MAX_BYTES / cluster_bytes, 1), COW_LOOKS);
	alloc->look_memory = cow_buf_alloc((size_t)alloc->nr_looks * cluster_bytes);
	if (!alloc->look_memory)
		return -ENOMEM;
	for (unsigned i = 0; i < alloc->nr_looks; i++)
		alloc->looks[i].buf = alloc->look_memory + (size_t)i * cluster_bytes;
	return 0;
}

void cow_look_fini(struct cow_alloc *alloc)
{
	free(alloc->look_memory);
	alloc->look_memory = NULL;
}

uint64_t cow_look_nr_blocks(const struct cow_alloc *alloc)
{
	uint64_t nr = alloc->reftable->nr, per_block = alloc->g->refs_per_block;
	return cow_min(nr, (alloc->tail + per_block - 1) / per_block);
}

static void found(struct cow_alloc *alloc, uint64_t block, uint64_t idx)
{
	cow_mutex_lock(&alloc->lock);
	cow_freemap_found(&alloc->map, block, idx);
	cow_mutex_unlock(&alloc->lock);
}

/* A block that cannot be read has nothing to offer; the log has the error. */
static void look_done(struct cow_io *io)
{
	struct cow_look *look = (struct cow_look *)io;
	const struct cow_geometry *g = look->alloc->g;
	found(look->alloc, look->block,
	      io->result
		      ? g->refs_per_block
		      : cow_refcount_find_zero(look->buf, g->refcount_order, 0, g->refs_per_block));
	cow_task_io_done(look->task, 0);
}

static enum cow_next refill_look_at_refcount_blocks(struct cow_task *task)
{
	struct cow_reserve *r = cow_reserve_of(task);
	return task->pending ? cow_task_wait_io(task) : cow_task_goto(task, r->after_look);
}

static const struct cow_step step_drained = { "refill: look at refcount blocks",
					      refill_look_at_refcount_blocks };

/* The next unknown block that has to be read; NONE: all are known. */
static uint64_t next_block(struct cow_alloc *alloc)
{
	for (;;) {
		cow_mutex_lock(&alloc->lock);
		uint64_t block = cow_freemap_look(&alloc->map, cow_look_nr_blocks(alloc));
		cow_mutex_unlock(&alloc->lock);
		if (block == COW_FREEMAP_NONE)
			return block;
		uint64_t entry = cow_table_get(alloc->reftable, block);
		if (entry && !(entry & (alloc->g->cluster_bytes - 1)) &&
		    entry < alloc->file->size_bytes)
			return block;
		/* No block: all is free. A broken entry: the scan will say so. */
		found(alloc, block, 0);
		if (!entry)
			return COW_FREEMAP_NONE;
	}
}

enum cow_next cow_look_start(struct cow_reserve *r, const struct cow_step *next)
{
	struct cow_alloc *alloc = r->alloc;
	cow_assert(r->has_baton && !r->task.pending);
	r->after_look = next;
	for (unsigned i = 0; i < alloc->nr_looks; i++) {
		struct cow_look *look = &alloc->looks[i];
		look->block = next_block(alloc);
		if (look->block == COW_FREEMAP_NONE)
			break;
		look->alloc = alloc;
		look->task = &r->task;
		cow_io_prep_rw(&look->io, COW_IO_READ, alloc->file,
			       cow_table_get(alloc->reftable, look->block), look->buf,
			       alloc->g->cluster_bytes, look_done);
		r->task.pending++;
		cow_loop_submit(r->task.loop, &look->io);
	}
	return cow_task_goto(&r->task, &step_drained);
}
