/* SPDX-License-Identifier: MIT */
/*
 * The gate that requests come in through. A change of the whole image shuts it, waits until those
 * inside are through, and opens it again.
 *
 * A request that comes in is counted first, then looks whether the gate is shut; the change shuts it
 * first, then looks at the counts. So none is overlooked. The counts are the queues' own.
 */
#ifndef COW_GATE_H
#define COW_GATE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "engine/base/assert.h"
#include "engine/base/mutex.h"
#include "engine/loop/task.h"

struct cow_gate {
	/* a change of the whole image is under way, the gate shut or about to be */
	atomic_bool changing;
	atomic_bool shut;
	struct cow_mutex_gate lock;
	struct cow_waitlist parked COW_GUARDED_BY(gate); /* requests, until it opens */
};

void cow_gate_init(struct cow_gate *gate);

static inline bool cow_gate_is_shut(struct cow_gate *gate)
{
	return atomic_load(&gate->shut);
}

/* The count first, then the look. False: the gate is shut, and the request is not inside. */
static inline bool cow_gate_enter(struct cow_gate *gate, atomic_uint *inside)
{
	atomic_fetch_add(inside, 1);
	if (!cow_gate_is_shut(gate))
		return true;
	atomic_fetch_sub(inside, 1);
	return false;
}

static inline void cow_gate_leave(atomic_uint *inside)
{
	unsigned before = atomic_fetch_sub(inside, 1);
	cow_assert(before);
}

void cow_gate_shut(struct cow_gate *gate);
/* Those who are parked come in. */
void cow_gate_open(struct cow_gate *gate);
/* Parks the task until the gate opens. False: it is open. */
bool cow_gate_park(struct cow_gate *gate, struct cow_task *task);

#endif
