/* SPDX-License-Identifier: MIT */
/*
 * What a daemon that died leaves: a device in the kernel that nobody serves, and a record. One that
 * died before it had written its record leaves a device that only its cookie tells to be ours.
 */
#ifndef COW_LEFTOVER_H
#define COW_LEFTOVER_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/control/record.h"
#include "engine/base/result.h"

/*
 * Removes the device of a dead daemon and its record (freed and read anew), and says so on standard
 * error. Nothing happens to a device that the kernel has given to somebody else since. Exit status.
 */
COW_MUST_CHECK int cow_leftover_clear(struct cow_record *record);

/*
 * Devices without a record, at most max; their number. None while an attach is between the two, or
 * for users who may not ask the kernel.
 */
COW_MUST_CHECK int cow_leftover_find(uint32_t *ids, int max);

/* Removes the device id if it is such a one. False: it is not. */
bool cow_leftover_remove(uint32_t id);

/*
 * A device of ours for which the kernel waits for another daemon, and that nothing here knows of. It is
 * listed, but taken away only by who is sure that none comes. Exit status.
 */
bool cow_leftover_waits(uint32_t id);
COW_MUST_CHECK int cow_leftover_force(uint32_t id);

/*
 * Before an attach: removes all without a record, and what dead daemons left of the image (absolute) and under
 * the id (UINT32_MAX: any). An exit status: 1 where the id stays taken, after telling by whom.
 */
COW_MUST_CHECK int cow_leftover_make_way(const char *image, uint32_t id);

#endif
