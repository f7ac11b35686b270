/* SPDX-License-Identifier: MIT */
/*
 * Memory that outlives the process: a killed process leaves it to the next one, which must read all
 * that was acknowledged, and to which the requests that were in flight are given again. A loss of
 * power takes it away. Between the two nobody else opens the image.
 */
#ifndef SIM_OUTLIVE_H
#define SIM_OUTLIVE_H

#include "tests/sim/run.h"

void sim_outlive_init(struct sim_run *run);
void sim_outlive_fini(struct sim_run *run);
/* For cow_open_options; 0: this run's processes leave nothing. */
int sim_outlive_fd(const struct sim_run *run);
/* The moment at which the process dies, or the machine. True: it leaves what it has acknowledged. */
bool sim_outlive_crash(struct sim_run *run);
/* The old process has ended: what it left is the next one's. */
void sim_outlive_settle(struct sim_run *run);
/* Something is left that nobody has replayed: the image is not to be looked at by others. */
bool sim_outlive_pending(const struct sim_run *run);
/* The image is open again, or was closed in an orderly way. */
void sim_outlive_done(struct sim_run *run);
/* Gives the requests that were in flight again. */
void sim_outlive_reissue(struct sim_run *run);

#endif
