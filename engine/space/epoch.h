/* SPDX-License-Identifier: MIT */
/*
 * Epochs: "every op that began before this moment has finished". An op enters the current epoch on
 * its queue and leaves it at its end. The epoch moves from E to E + 1 only when no op of E - 1 is
 * left; so at E + 2 no op that began in E or before is.
 */
#ifndef COW_EPOCH_H
#define COW_EPOCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/assert.h"
#include "engine/core/limits.h"

/*
 * One per queue, on a cache line of its own: written by its owner, read by whoever tries to
 * advance.
 */
struct cow_epoch_slot {
	_Alignas(64) atomic_uint active[2];
};

struct cow_epoch {
	atomic_uint_least64_t now;
	struct cow_epoch_slot slots[COW_MAX_QUEUES];
};

void cow_epoch_init(struct cow_epoch *epoch);

/* Returns the epoch entered, to be given to leave. */
static inline uint64_t cow_epoch_enter(struct cow_epoch *epoch, unsigned queue)
{
	for (;;) {
		uint64_t e = atomic_load(&epoch->now);
		atomic_fetch_add(&epoch->slots[queue].active[e & 1], 1);
		if (atomic_load(&epoch->now) == e)
			return e;
		atomic_fetch_sub(&epoch->slots[queue].active[e & 1], 1);
	}
}

static inline void cow_epoch_leave(struct cow_epoch *epoch, unsigned queue, uint64_t e)
{
	cow_assert(atomic_load(&epoch->now) - e <= 1); /* it waits for whoever is in an old one */
	unsigned before = atomic_fetch_sub(&epoch->slots[queue].active[e & 1], 1);
	cow_assert(before);
}

static inline uint64_t cow_epoch_now(struct cow_epoch *epoch)
{
	return atomic_load(&epoch->now);
}

/* Is everything that began at `e` or before over? Advances the epoch as far as that goes. */
bool cow_epoch_passed(struct cow_epoch *epoch, uint64_t e);

#endif
