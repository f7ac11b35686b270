/* SPDX-License-Identifier: MIT */
#include "tests/sim/sweep.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "tests/sim/expected.h"
#include "tests/sim/run.h"
#include "tests/sim/ways.h"

#define SLOTS (1ull << 24) /* pages that are not used take no memory */
#define PROBES 64u
#define SECONDS 120u /* of a process that lost power */

struct state {
	unsigned way;
	uint64_t hash;
};

/* Of the moment that this process is at. */
static struct {
	struct sim_ways ways;
	struct state states[SIM_SWEEP_MAX_WAYS]; /* that nobody has seen yet */
	unsigned nr;
} at;

/* ---- what has been seen ---- */

static size_t table_bytes(void)
{
	return sizeof(struct sim_sweep) + SLOTS * sizeof(uint64_t);
}

struct sim_sweep *sim_sweep_new(void)
{
	struct sim_sweep *sweep = mmap(NULL, table_bytes(), PROT_READ | PROT_WRITE,
				       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	cow_assert(sweep != MAP_FAILED);
	return sweep;
}

void sim_sweep_free(struct sim_sweep *sweep)
{
	if (sweep)
		munmap(sweep, table_bytes());
}

/* True if it had been seen. */
static bool saw(struct sim_sweep *sweep, uint64_t hash)
{
	hash |= !hash;
	for (unsigned i = 0; i < PROBES; i++) {
		uint64_t *slot = &sweep->seen[(hash + i) & (SLOTS - 1)];
		if (*slot == hash)
			return true;
		if (!*slot) {
			*slot = hash;
			return false;
		}
	}
	sweep->full++;
	return false;
}

static void look(struct sim_run *run)
{
	struct sim_sweep *sweep = run->sweep;
	uint64_t expected = sim_expected_hash(run);
	sim_ways_begin(&at.ways, &run->world);
	at.nr = 0;
	for (unsigned way = 0; way < at.ways.nr && at.nr < SIM_SWEEP_MAX_WAYS; way++) {
		uint64_t hash = sim_mix(sim_ways_leave(&at.ways, way) ^ expected);
		if (!saw(sweep, hash))
			at.states[at.nr++] = (struct state){ .way = way, .hash = hash };
	}
	sweep->counts.moments++;
	sweep->counts.ways += at.ways.nr;
	sweep->counts.states += at.nr;
}

/* ---- processes ---- */

void sim_sweep_limit(unsigned seconds)
{
	const struct itimerval limit = { .it_value.tv_sec = seconds };
	cow_assert(setitimer(ITIMER_PROF, &limit, NULL) == 0);
}

/* 0: the child is sound */
static int wait_for(pid_t pid)
{
	int status;
	cow_assert(pid > 0);
	cow_assert(waitpid(pid, &status, 0) == pid);
	return status;
}

static void lose_power(struct sim_run *run)
{
	struct sim_world *world = &run->world;
	run->swept = true;
	sim_sweep_limit(SECONDS);
	world->crash_kind = MEMORY_CRASH_POWER;
	world->undecided = true;
	sim_world_power_off(world);
}

void sim_sweep_event(struct sim_run *run)
{
	if (run->swept || run->finishing || run->action_idx + 1 < run->script->config.sweep)
		return;
	look(run);
	if (at.nr) {
		pid_t pid = fork();
		if (!pid) {
			lose_power(run);
			return;
		}
		if (wait_for(pid))
			_exit(1);
	}
	sim_ways_end(&at.ways);
}

/* What is left decides by itself what is done with it: the same as in any other run. */
static void settle(struct sim_run *run, const struct state *state)
{
	run->world.undecided = false;
	sim_sweep_limit(SECONDS);
	sim_ways_settle(&at.ways, state->way);
	run->random.state = state->hash;
	run->world.random.state = sim_mix(state->hash);
}

void sim_sweep_states(struct sim_run *run)
{
	for (unsigned i = 0; i < at.nr; i++) {
		pid_t pid = fork();
		if (!pid) {
			settle(run, &at.states[i]);
			return;
		}
		if (wait_for(pid)) {
			fprintf(stderr, "  power lost before host operation %llu, way %u of %u\n",
				(unsigned long long)run->world.events, at.states[i].way,
				at.ways.nr);
			_exit(1);
		}
	}
	_exit(0);
}
