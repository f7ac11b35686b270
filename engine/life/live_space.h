/* SPDX-License-Identifier: MIT */
/* Clusters for shadows, taken while the image runs. See live.h. */
#ifndef COW_LIVE_SPACE_H
#define COW_LIVE_SPACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/result.h"
#include "engine/image/state.h"
#include "engine/life/live_brake.h"
#include "engine/space/reserve.h"

struct cow_live_run {
	uint64_t cluster;
	uint32_t nr, used; /* the first `used` of them are given out */
};

struct cow_live_space {
	struct cow_image *image;
	struct cow_loop *loop;
	struct cow_reserve reserve;
	struct cow_live_brake *brake; /* let off before a wait; may be NULL */
	bool frozen;		      /* the device is */
	struct cow_live_run *runs;
	unsigned nr, cap, at; /* runs[at..nr) may have some left */
	unsigned nr_refills;  /* how often the refcounts were changed for it */
};

void cow_live_space_init(struct cow_live_space *space, struct cow_image *image,
			 struct cow_loop *loop);
/* One cluster, or nr consecutive ones: -ENOSPC if there are none. Counted in memory only. */
COW_MUST_CHECK int cow_live_space_take(struct cow_live_space *space, uint64_t *off);
COW_MUST_CHECK int cow_live_space_take_run(struct cow_live_space *space, uint32_t nr,
					   uint64_t *off);
/* Have some at hand for the freeze. */
COW_MUST_CHECK int cow_live_space_prepare(struct cow_live_space *space);
/*
 * One reference less on nr clusters; waits for room in the quarantine. -EIO: the image has failed.
 * -ENOSPC: a full host lets nothing be released; the clusters are leaked.
 */
COW_MUST_CHECK int cow_live_space_free(struct cow_live_space *space, uint64_t cluster, uint64_t nr);
/* Until most of what requests have freed is released and no refill runs: not for ever. */
COW_MUST_CHECK int cow_live_space_drain(struct cow_live_space *space, const atomic_bool *cancel);
/* What was given out is not needed: cow_live_space_fini() returns it, too. */
void cow_live_space_undo(struct cow_live_space *space);
/* What was not given out goes back to the image. */
void cow_live_space_fini(struct cow_live_space *space);

#endif
