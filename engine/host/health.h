/* SPDX-License-Identifier: MIT */
/*
 * What a host file has refused since it was opened: how often, and what last. For who asks how a
 * device is: a guest repeats what fails, so the log has only the first error. Nothing here is
 * touched by an I/O that succeeds.
 */
#ifndef COW_HEALTH_H
#define COW_HEALTH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/mutex.h"

enum cow_health_kind {
	COW_HEALTH_READ,
	COW_HEALTH_WRITE, /* a change of the file's length too */
	COW_HEALTH_FLUSH,
	COW_HEALTH_DISCARD,
	COW_HEALTH_NR,
};

struct cow_health_error {
	enum cow_health_kind kind;
	int error;	    /* errno, positive; 0: none so far */
	uint64_t offset;    /* bytes, in the host file; FLUSH: 0 */
	uint64_t time_nsec; /* since 1970 */
};

/* All zeros: nothing was refused. */
struct cow_health {
	atomic_uint_least64_t nr_errors[COW_HEALTH_NR];
	atomic_bool cannot_punch; /* the host has said that it makes no holes in this file */
	struct cow_health_error last COW_GUARDED_BY(host_error); /* health.c's lock */
};

/* Any thread; no lock held above COW_RANK_HOST_ERROR. error: errno, positive. */
void cow_health_note(struct cow_health *health, enum cow_health_kind kind, uint64_t offset,
		     int error);
/* Any thread. */
struct cow_health_error cow_health_last(struct cow_health *health);

/* "read", "write", "flush", "discard". */
const char *cow_health_kind_name(enum cow_health_kind kind);

#endif
