/* SPDX-License-Identifier: MIT */
/*
 * Snapshot commands between two openings of the image, with power lost in the middle of them: afterwards the image is as before or as
 * after, without corruption and without a leak more, and every snapshot still holds what it held.
 */
#ifndef SIM_SNAPSHOT_H
#define SIM_SNAPSHOT_H

#include "tests/sim/run.h"

/* The image is closed, what it holds is settled. Ends with the power on and the image closed. */
void sim_snapshot_command(struct sim_run *run, const struct sim_action *action);
/* Reads all snapshots made here through the engine; the image is closed or only read. Stops when power is lost. */
void sim_snapshots_verify(struct sim_run *run);
void sim_snapshots_fini(struct sim_run *run);

#endif
