/* SPDX-License-Identifier: MIT */
/* detach --force past a daemon that does not answer. */
#ifndef COW_FORCE_H
#define COW_FORCE_H

#include <stdbool.h>

#include "daemon/control/record.h"
#include "engine/base/result.h"

/* The record's process has the device, which is live, whatever has become of its socket. */
bool cow_force_is_alive(const struct cow_record *record);

/*
 * Stops the device in the kernel, wakes a daemon that somebody stopped (SIGCONT), and kills it when it does
 * not end by itself then; each step has a limit, and says what it does. Only a process that holds this very
 * device is touched. Exit status.
 */
COW_MUST_CHECK int cow_force_detach(const struct cow_record *record);

/*
 * For a daemon that answers and cannot stop its device: its keeper is dead. Told by the kernel that the device has stopped
 * it closes the image as ever, and leaves device and record to us. Exit status.
 */
COW_MUST_CHECK int cow_force_stop(const struct cow_record *record);

#endif
