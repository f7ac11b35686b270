/* SPDX-License-Identifier: MIT */
/* The command line of cow_random. */
#ifndef COW_RANDOM_OPTIONS_H
#define COW_RANDOM_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/core/limits.h"
#include "engine/life/image.h"

struct random_options {
	const char *image, *shadow, *mix;
	unsigned live_snapshots; /* how many to keep; 0: none are taken */
	uint64_t seed, ops, max_bytes;
	unsigned queues, depth, rounds, timeout_seconds, zero_percent;
	/* the engine has little of everything, drawn from the seed, so that requests wait for it */
	bool tiny_limits;
	struct cow_limits limits;
	bool sync_loop, no_verify, kill, full_sweep, live_bitmaps;
	FILE *written;
	struct cow_open_options open;
};

/* Fills *opt. Ends the process with 2 and a line on standard error when the line makes no sense. */
void random_options_parse(struct random_options *opt, int argc, char **argv);

_Noreturn void random_die(const char *what, const char *why);

#endif
