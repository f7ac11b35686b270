/* SPDX-License-Identifier: MIT */
/*
 * Where queue threads may run. The default is to leave them to the scheduler: pinning a queue's
 * thread to the CPUs that submit to it makes both take turns on one CPU (measured: a quarter of the
 * IOPS, DESIGN.md 5).
 *
 *   float  anywhere                                                   (default)
 *   queue  the CPUs that submit to the queue, as the kernel says
 *   other  any CPU but those, as long as there are others
 *   LIST   the CPUs of a list like 0-3,8
 */
#ifndef COW_AFFINITY_H
#define COW_AFFINITY_H

#include <sched.h>
#include <stdbool.h>

#include "engine/base/result.h"

enum cow_affinity_policy {
	COW_AFFINITY_FLOAT,
	COW_AFFINITY_QUEUE,
	COW_AFFINITY_OTHER,
	COW_AFFINITY_LIST
};

struct cow_affinity {
	enum cow_affinity_policy policy;
	cpu_set_t list;
};

/* 0 or -EINVAL. */
COW_MUST_CHECK int cow_affinity_parse(const char *text, struct cow_affinity *affinity);

/*
 * submitters: the queue's, allowed: this process's. False: leave the thread alone; else *cpus
 * (never empty).
 */
bool cow_affinity_choose(const struct cow_affinity *affinity, const cpu_set_t *submitters,
			 const cpu_set_t *allowed, cpu_set_t *cpus);

#endif
