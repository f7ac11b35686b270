/* SPDX-License-Identifier: MIT */
#include "engine/space/reserve.h"

#include <string.h>

#include "engine/base/container.h"
#include "engine/base/math.h"
#include "engine/core/core.h"
#include "engine/space/quarantine.h"

void cow_reserve_init(struct cow_reserve *reserve, struct cow_alloc *alloc)
{
	memset(reserve, 0, sizeof(*reserve));
	reserve->alloc = alloc;
	reserve->goal_clusters = (uint32_t)cow_min(16, alloc->reserve_clusters);
	cow_waitlist_init(&reserve->waiters);
}

/* Start the refill unless it runs. */
static void refill(struct cow_reserve *reserve, struct cow_loop *loop)
{
	if (reserve->refilling)
		return;
	cow_assert(!reserve->has_baton && !reserve->task.pending); /* the last one has ended */
	reserve->refilling = true;
	cow_task_post(&reserve->task, loop, reserve->first_step);
}

static void skip_empty(struct cow_reserve *reserve)
{
	while (reserve->pos < reserve->nr && !reserve->extents[reserve->pos].nr)
		reserve->pos++;
}

/* Refill early, so that writers seldom wait for it. */
static void prefetch(struct cow_reserve *reserve, struct cow_loop *loop)
{
	if (reserve->refilling ||
	    reserve->nr - reserve->pos > reserve->alloc->core->limits.extents / 4)
		return;
	uint64_t left = 0;
	for (unsigned i = reserve->pos; i < reserve->nr; i++)
		left += reserve->extents[i].nr;
	if (left <= reserve->goal_clusters / 4)
		refill(reserve, loop);
}

void cow_reserve_wait(struct cow_reserve *reserve, struct cow_task *task)
{
	cow_waitlist_park(&reserve->waiters, task, "free host clusters");
	refill(reserve, task->loop);
}

uint32_t cow_reserve_take(struct cow_reserve *reserve, uint32_t want, struct cow_hoff *out,
			  bool *zero, struct cow_task *task)
{
	cow_assert(want);
	skip_empty(reserve);
	if (reserve->pos == reserve->nr) {
		cow_reserve_wait(reserve, task);
		return 0;
	}
	struct cow_reserved *e = &reserve->extents[reserve->pos];
	uint32_t nr = (uint32_t)cow_min(want, e->nr);
	out->v = e->cluster << reserve->alloc->g->cluster_bits;
	*zero = e->zero;
	e->cluster += nr;
	e->nr -= nr;
	prefetch(reserve, task->loop);
	return nr;
}

bool cow_reserve_peek(const struct cow_reserve *reserve, bool *zero)
{
	for (unsigned i = reserve->pos; i < reserve->nr; i++) {
		if (reserve->extents[i].nr) {
			*zero = reserve->extents[i].zero;
			return true;
		}
	}
	return false;
}

void cow_reserve_return(struct cow_reserve *reserve, struct cow_hoff off, uint32_t nr)
{
	cow_assert(nr && reserve->pos <= reserve->nr);
	if (reserve->nr == reserve->alloc->core->limits.extents) {
		cow_quarantine_add(reserve->alloc->quarantine,
				   off.v >> reserve->alloc->g->cluster_bits, nr);
		return;
	}
	reserve->extents[reserve->nr++] = (struct cow_reserved){
		.cluster = off.v >> reserve->alloc->g->cluster_bits,
		.nr = nr,
		.zero = false,
	};
}

void cow_reserve_io_done(struct cow_io *io)
{
	cow_task_io_done(&cow_container_of(io, struct cow_reserve, io)->task, io->result);
}
