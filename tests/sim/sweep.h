/* SPDX-License-Identifier: MIT */
/*
 * Power lost before every host operation of a run, each time in every way that sim_disk_ways()
 * knows: processes forked there, while the run itself goes on. Ways that leave the same host are
 * tried once.
 */
#ifndef SIM_SWEEP_H
#define SIM_SWEEP_H

#include "tests/sim/run.h"

/* A host operation is about to take effect. Returns in the run, and in each process that lost power. */
void sim_sweep_event(struct sim_run *run);
/* What survived is settled: ends the process if another one has seen the same. */
void sim_sweep_settled(struct sim_run *run);

#endif
