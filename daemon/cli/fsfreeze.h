/* SPDX-License-Identifier: MIT */
/* Freezing the file systems mounted from a device, so that a snapshot of it needs no recovery. */
#ifndef COW_FSFREEZE_H
#define COW_FSFREEZE_H

#include <signal.h>
#include <stdint.h>

#include "engine/base/error.h"

#define COW_FSFREEZE_MAX 64

struct cow_fsfreeze {
	int fds[COW_FSFREEZE_MAX]; /* of the frozen mount points */
	int nr;
	sigset_t signals; /* as they were; held back while anything is frozen */
};

/* All file systems on /dev/ublkb<id> and its partitions, or none: -errno with a text. */
int cow_fsfreeze(uint32_t id, struct cow_fsfreeze *frozen, struct cow_error *err);
void cow_fsthaw(struct cow_fsfreeze *frozen);

#endif
