/* SPDX-License-Identifier: MIT */
/*
 * Key slots of the closed image, filled and emptied, all under the one passphrase of all images: at
 * every moment each active one opens with it, and one at least is there.
 */
#ifndef SIM_SLOTS_H
#define SIM_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

struct cow_error;
struct cow_file;
struct sim_action;
struct sim_run;

struct sim_slots {
	bool chosen;
	uint32_t was, goal; /* active ones, a bit each: before and after */
	unsigned slot;
	uint64_t material; /* of that slot, before: a hash */
};

/* One of slots 6, 7, 0 and 3 is filled if it is not active, else emptied. False: no such image. */
bool sim_slots_choose(struct sim_run *run, const struct sim_action *a);
int sim_slots_run(struct sim_run *run, struct cow_file *file, struct cow_error *err);
bool sim_slots_done(struct sim_run *run);
/* The image is closed, power is on. */
void sim_slots_check(struct sim_run *run);

#endif
