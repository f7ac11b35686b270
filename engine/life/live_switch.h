/* SPDX-License-Identifier: MIT */
/* How a change of snapshots takes effect. See live.h. */
#ifndef COW_LIVE_SWITCH_H
#define COW_LIVE_SWITCH_H

#include "engine/base/result.h"
#include "engine/life/live_state.h"

/* For what is one piece: tables, and what says where they are. */
COW_MUST_CHECK int cow_live_find_places(struct cow_live *x);
/* Writes it, then the header. */
COW_MUST_CHECK int cow_live_switch(struct cow_live *x);

#endif
