/* SPDX-License-Identifier: MIT */
/*
 * A larger refcount table. At the first host cluster that the old table cannot describe stand, one
 * after the other: as many refcount blocks as it takes to describe themselves and the new table,
 * then the new table. Order (FORMAT.md 4): all of that | header
 * (offset and clusters in one write) | free the old table.
 *
 * The baton is held throughout, and a pass is joined first, so that no entry of the old table is
 * dirty: what is copied is durable.
 */
#ifndef COW_REFTABLE_GROW_H
#define COW_REFTABLE_GROW_H

#include "engine/space/reserve.h"

/* Makes room for more refcount blocks, then goes on at next, or unwinds. Baton held. */
enum cow_next cow_reftable_grow(struct cow_reserve *r, const struct cow_step *next);

#endif
