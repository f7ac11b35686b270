/* SPDX-License-Identifier: MIT */
/*
 * Power lost before every host operation of a run, each time in every way that ways.h knows.
 *
 * A way is looked at as a hash first, of what it would leave on the host and of what the model then
 * demands: what has been seen is not tried again, in this run or another one that shares the table.
 * For the rest a process is forked in which power goes, and the engine runs into the wall; from it
 * one for each of them, that opens and checks what is left. The run itself goes on.
 */
#ifndef SIM_SWEEP_H
#define SIM_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

struct sim_run;

#define SIM_SWEEP_MAX_WAYS 512u

struct sim_sweep_counts {
	uint64_t sequences; /* counted by exhaustive.c */
	uint64_t moments;   /* host operations before which power was lost */
	uint64_t ways;	    /* in which it was */
	uint64_t states;    /* of them, that nobody had seen: these were opened and checked */
	uint64_t faults;    /* host operations that were made to fail; counted by exhaustive.c */
};

/* Shared by all processes that come from the one that made it; one at a time runs. */
struct sim_sweep {
	struct sim_sweep_counts counts;
	bool met_fault; /* the last verb on the closed image met what was put in its way */
	uint64_t full;	/* times that the table had no room: counted in states again */
	uint64_t seen[];
};

struct sim_sweep *sim_sweep_new(void);
void sim_sweep_free(struct sim_sweep *sweep);

/* A host operation is about to take effect. Returns in the run, and in each process that lost power. */
void sim_sweep_event(struct sim_run *run);
/* In a process that lost power, once the image is closed: returns in one process for each state. */
void sim_sweep_states(struct sim_run *run);
/* Ends the process, after so many seconds of its own time, without its children's. */
void sim_sweep_limit(unsigned seconds);

#endif
