/* SPDX-License-Identifier: MIT */
/* Runs in a child process each, and the search for a shorter script that still fails. */
#ifndef SIM_SHRINK_H
#define SIM_SHRINK_H

#include "tests/sim/run.h"

struct sim_child_options {
	bool quiet;
	unsigned seconds; /* real time one run may take */
	struct sim_run_options run;
};

/* 0: passed. Else the exit status or 128 + signal. */
int sim_run_child(const struct sim_script *script, const struct sim_child_options *options,
		  struct sim_stats *stats);

/* Leaves out what is not needed for failing. False: it does not fail. */
bool sim_shrink(struct sim_script *script);

#endif
