/* SPDX-License-Identifier: MIT */
#include "engine/space/epoch.h"

void cow_epoch_init(struct cow_epoch *epoch)
{
	atomic_init(&epoch->now, 2);
	for (unsigned i = 0; i < COW_MAX_QUEUES; i++) {
		atomic_init(&epoch->slots[i].active[0], 0);
		atomic_init(&epoch->slots[i].active[1], 0);
	}
}

static bool try_advance(struct cow_epoch *epoch, uint64_t now)
{
	for (unsigned i = 0; i < COW_MAX_QUEUES; i++)
		if (atomic_load(&epoch->slots[i].active[(now + 1) & 1]))
			return false;
	/* Lost to another advancer: fine, it moved. */
	atomic_compare_exchange_strong(&epoch->now, &now, now + 1);
	return true;
}

bool cow_epoch_passed(struct cow_epoch *epoch, uint64_t e)
{
	cow_assert(e <= cow_epoch_now(epoch));
	for (;;) {
		uint64_t now = cow_epoch_now(epoch);
		if (now >= e + 2)
			return true;
		if (!try_advance(epoch, now))
			return false;
	}
}
