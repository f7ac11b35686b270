/* SPDX-License-Identifier: MIT */
/* Seeded choice of the next request: what, where, how long. */
#ifndef COW_TEST_WORKLOAD_H
#define COW_TEST_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/life/image.h"
#include "engine/request/kind.h"

struct rng {
	uint64_t state;
};

uint64_t rng_next(struct rng *rng);
/* 0 <= value < bound */
uint64_t rng_below(struct rng *rng, uint64_t bound);

struct workload {
	uint64_t size_bytes;
	uint32_t cluster_bytes;
	uint64_t max_bytes;	     /* READ, WRITE */
	uint64_t max_long_bytes;     /* DISCARD, WRITE_ZEROES */
	uint64_t hot_off, hot_bytes; /* half of the requests go here */
	unsigned weight[5];	     /* by enum cow_op_kind */
	unsigned zero_percent;	     /* of the writes carry zeros */
};

struct request {
	enum cow_op_kind kind;
	unsigned flags;
	uint64_t offset, length;
	bool zeros;
};

void workload_init(struct workload *w, const struct cow_image_geometry *geometry, struct rng *rng);
/* "read=4,write=6,flush=1,discard=1,zero=1" */
bool workload_parse_mix(struct workload *w, const char *text);
void workload_next(const struct workload *w, struct rng *rng, struct request *req);

#endif
