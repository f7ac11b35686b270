/* SPDX-License-Identifier: MIT */
/*
 * By how much the refcounts of host clusters are to change, kept in little memory until the change
 * is made: two bits a cluster for -1 to 2, which is what nearly all are; a group of clusters that
 * needs more (compressed clusters share host clusters) gets a number for each. Groups that nothing
 * changes take none.
 *
 * Besides, a mark for each cluster: it will have exactly one reference (see shadow.h).
 */
#ifndef COW_DELTA_H
#define COW_DELTA_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/result.h"

#define COW_DELTA_GROUP 16384u /* clusters */

struct cow_delta_group {
	uint8_t *codes; /* NULL: all 0, or wide */
	int32_t *wide;
	uint8_t *one; /* NULL: none is marked */
};

struct cow_delta {
	struct cow_delta_group *groups;
	uint64_t nr;	      /* groups */
	uint64_t nr_clusters; /* there are no more: set by the owner; 0: no limit but memory's */
	/* told of each cluster whose number changes; may be NULL */
	void (*changed)(void *ctx, uint64_t cluster);
	void *ctx;
	uint64_t bytes; /* memory in use */
};

void cow_delta_init(struct cow_delta *d);
void cow_delta_fini(struct cow_delta *d);
/* 0, -ENOMEM, -EOVERFLOW past what any refcount may need, or past the last cluster. */
COW_MUST_CHECK int cow_delta_add(struct cow_delta *d, uint64_t cluster, int by);
int64_t cow_delta_get(const struct cow_delta *d, uint64_t cluster);
/* 0 or -ENOMEM. */
COW_MUST_CHECK int cow_delta_mark_one(struct cow_delta *d, uint64_t cluster, bool one);
bool cow_delta_is_one(const struct cow_delta *d, uint64_t cluster);
/* The first cluster in [cluster, end) with a change, or end. */
uint64_t cow_delta_next(const struct cow_delta *d, uint64_t cluster, uint64_t end);

#endif
