/* SPDX-License-Identifier: MIT */
#include "tests/sim/sweep.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/assert.h"

#define MAX_SEEN 256u /* more than there are ways */

/* 0: the child is sound */
static int wait_for(pid_t pid)
{
	int status;
	cow_assert(pid > 0);
	cow_assert(waitpid(pid, &status, 0) == pid);
	return status;
}

/*
 * What was in flight is done, in part, and no further: a process for each way to lose it, one after
 * the other.
 */
static void lose_in_every_way(struct sim_world *world)
{
	unsigned nr = sim_disk_ways(&world->disk);
	for (unsigned way = 0; way < nr; way++) {
		pid_t pid = fork();
		if (!pid) {
			world->disk.way = way;
			return;
		}
		if (wait_for(pid)) {
			fprintf(stderr, "  power lost before host operation %llu, way %u of %u\n",
				(unsigned long long)world->events, way, nr);
			_exit(1);
		}
	}
	_exit(0);
}

void sim_sweep_event(struct sim_run *run)
{
	struct sim_world *world = &run->world;
	if (run->swept || run->finishing || run->action_idx + 1 < run->script->config.sweep)
		return;
	if (!run->seen) {
		run->seen = mmap(NULL, MAX_SEEN * sizeof(*run->seen), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		cow_assert(run->seen != MAP_FAILED);
	}
	memset(run->seen, 0, MAX_SEEN * sizeof(*run->seen));
	pid_t pid = fork();
	if (!pid) {
		run->swept = true;
		world->random.state += world->events;
		world->crash_kind = SIM_CRASH_POWER;
		world->on_loss = lose_in_every_way;
		sim_world_power_off(world);
		world->on_loss = NULL;
		return;
	}
	if (wait_for(pid))
		_exit(1);
}

void sim_sweep_settled(struct sim_run *run)
{
	uint64_t hash = sim_disk_hash(&run->world.disk) | 1;
	unsigned i = 0;
	while (i < MAX_SEEN && run->seen[i] && run->seen[i] != hash)
		i++;
	if (i < MAX_SEEN && run->seen[i])
		_exit(0);
	if (i < MAX_SEEN)
		run->seen[i] = hash;
}
