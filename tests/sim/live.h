/* SPDX-License-Identifier: MIT */
/*
 * Snapshot commands on the open image: frozen, with requests in flight on all queues, others
 * arriving meanwhile, power lost and errors in the middle. The snapshot holds what the disk held
 * when the last request that ran had ended, and what it covers is durable; the requests that waited
 * find the image as if nothing had been.
 */
#ifndef SIM_LIVE_H
#define SIM_LIVE_H

#include "tests/sim/run.h"

/* May leave the power off, and run->live in doubt. */
void sim_live_command(struct sim_run *run, const struct sim_action *action);
/*
 * The image is closed and the power is on: if the last command is in doubt, the disk tells whether
 * it took effect.
 */
void sim_live_resolve(struct sim_run *run);
/* A step of the world: a request may arrive while the image is frozen. */
void sim_live_step(struct sim_run *run);

#endif
