/* SPDX-License-Identifier: MIT */
/*
 * A disk that is cut off inside a cluster and grows over that again, closed or in use, before any
 * request: what was cut off reads as zeros. Where the last cluster is compressed, encrypted or
 * another's, too, the part of it behind the cut may come back.
 */
#ifndef SIM_CUT_H
#define SIM_CUT_H

#include "tests/sim/run.h"

/* The image is closed, what it holds is settled. False: it is left as it is. */
bool sim_cut(struct sim_run *run);
/* The same of an open one. */
bool sim_cut_live(struct sim_run *run);
/* After that: open, the power on, nothing in its way. */
void sim_cut_grow_live(struct sim_run *run);

#endif
