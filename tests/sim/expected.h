/* SPDX-License-Identifier: MIT */
/* What the model demands of an image if power goes now, as a hash: equal means the same. */
#ifndef SIM_EXPECTED_H
#define SIM_EXPECTED_H

#include <stdint.h>

struct sim_run;

uint64_t sim_expected_hash(const struct sim_run *run);

#endif
