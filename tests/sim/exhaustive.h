/* SPDX-License-Identifier: MIT */
/*
 * Every sequence of up to `depth` operations on a small image of each kind, and a loss of power at
 * every host operation of each: a process is forked there, in which it happens.
 */
#ifndef SIM_EXHAUSTIVE_H
#define SIM_EXHAUSTIVE_H

#include "tests/sim/shrink.h"

/* 0, or 1 with the first failing sequence as a script on standard output. */
int sim_exhaustive(unsigned depth, const struct sim_child_options *options);

#endif
