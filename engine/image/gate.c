/* SPDX-License-Identifier: MIT */
#include "engine/image/gate.h"

void cow_gate_init(struct cow_gate *gate)
{
	cow_mutex_init(&gate->lock, COW_RANK_FREEZE);
	cow_waitlist_init(&gate->parked);
}

void cow_gate_shut(struct cow_gate *gate)
{
	cow_assert(atomic_load(&gate->changing));
	cow_assert(!cow_gate_is_shut(gate));
	atomic_store(&gate->shut, true);
}

void cow_gate_open(struct cow_gate *gate)
{
	struct cow_waitlist wake;
	cow_waitlist_init(&wake);
	cow_mutex_lock(&gate->lock);
	atomic_store(&gate->shut, false);
	cow_waitlist_take(&gate->parked, &wake);
	cow_mutex_unlock(&gate->lock);
	cow_waitlist_wake(&wake, 0);
}

bool cow_gate_park(struct cow_gate *gate, struct cow_task *task)
{
	cow_mutex_lock(&gate->lock);
	bool park = cow_gate_is_shut(gate);
	if (park)
		cow_waitlist_park(&gate->parked, task, "the end of a freeze");
	cow_mutex_unlock(&gate->lock);
	return park;
}
