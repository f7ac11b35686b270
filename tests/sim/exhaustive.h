/* SPDX-License-Identifier: MIT */
/*
 * Every sequence of up to `depth` operations on a small image of each kind, one by one and all at
 * once, and a loss of power at every host operation of each (sweep.h).
 */
#ifndef SIM_EXHAUSTIVE_H
#define SIM_EXHAUSTIVE_H

#include "tests/sim/run.h"

/*
 * only: a kind's number, from 1 on; 0: all. 0, or 1 with the first failing sequence as a script on
 * standard output; 2: no such depth or kind.
 */
int sim_exhaustive(unsigned depth, unsigned only, const struct sim_run_options *options);

#endif
