/* SPDX-License-Identifier: MIT */
/*
 * Encrypted images, made without chance and without waiting: the same master key and salts for the
 * same seed, one iteration.
 */
#ifndef SIM_KEYS_H
#define SIM_KEYS_H

#include "engine/create/create.h"
#include "tests/sim/run.h"

/* The passphrase of all images; freed by cow_secret_free(). */
struct cow_secret *sim_keys_secret(void);
/* cow_create(), encrypted as kind (enum sim_encrypt) says. */
void sim_keys_create(struct sim_run *run, const char *path, uint64_t kind,
		     struct cow_create_options *options);

#endif
