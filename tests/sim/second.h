/* SPDX-License-Identifier: MIT */
/*
 * A second opinion about what a crash has left: QEMU's. A sample of crash states is written to real
 * files as it is; qemu-img check, without repairing, must find nothing but leaks, and what QEMU
 * reads must be what the engine reads after it has opened the image.
 */
#ifndef SIM_SECOND_H
#define SIM_SECOND_H

#include "tests/sim/run.h"

/* The host is back, nobody has opened the image yet. In `percent` of the cases (script and crash tell). */
void sim_second_take(struct sim_run *run);
/* What the engine has read, piece by piece from the start. */
void sim_second_content(struct sim_run *run, uint64_t off, const uint8_t *buf, uint64_t bytes);
/* All is read, or (whole: false) power was lost again. */
void sim_second_end(struct sim_run *run, bool whole);

#endif
