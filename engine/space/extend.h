/* SPDX-License-Identifier: MIT */
/*
 * The file is made longer before anything is written there, so that it always ends on a multiple of
 * COW_FILE_ALIGN_BYTES: a host file system zeroes the rest of a last, partial block through the
 * page cache when the file grows on, which collides with our direct writes to that block (Linux
 * warns, and fails the next fdatasync).
 */
#ifndef COW_EXTEND_H
#define COW_EXTEND_H

#include "engine/space/reserve.h"

/*
 * A refill goes on at next when the file reaches to end, or unwinds. Baton held; the reservation's
 * io is used.
 */
enum cow_next cow_extend_to(struct cow_reserve *r, uint64_t end, const struct cow_step *next);

#endif
