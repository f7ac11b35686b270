/* SPDX-License-Identifier: MIT */
#include "engine/life/live_brake.h"

/* Of so many batches requests wait for the first few. */
#define CYCLE 8u

static const unsigned shut_for[] = { 0, 4, 6, 7 };

void cow_live_brake_harder(struct cow_live_brake *b)
{
	b->level += b->level + 1 < sizeof(shut_for) / sizeof(shut_for[0]);
}

void cow_live_brake_batch(struct cow_live_brake *b)
{
	bool on = b->nr++ % CYCLE < shut_for[b->level];
	if (on == b->on)
		return;
	b->on = on;
	if (on)
		cow_gate_shut(b->gate);
	else
		cow_gate_open(b->gate);
}

void cow_live_brake_off(struct cow_live_brake *b)
{
	if (b->on)
		cow_gate_open(b->gate);
	b->on = false;
}
