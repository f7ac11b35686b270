/* SPDX-License-Identifier: MIT */
/* Random numbers of the simulator: splitmix64, so that a seed means the same on every machine. */
#ifndef SIM_RANDOM_H
#define SIM_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct sim_random {
	uint64_t state;
};

static inline uint64_t sim_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static inline uint64_t sim_random_next(struct sim_random *r)
{
	r->state += 0x9e3779b97f4a7c15ull;
	return sim_mix(r->state);
}

/* 0 <= result < n; n > 0 */
static inline uint64_t sim_below(struct sim_random *r, uint64_t n)
{
	return sim_random_next(r) % n;
}

static inline bool sim_chance(struct sim_random *r, unsigned percent)
{
	return sim_below(r, 100) < percent;
}

#endif
