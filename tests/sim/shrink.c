/* SPDX-License-Identifier: MIT */
#include "tests/sim/shrink.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/assert.h"

static _Noreturn void child(const struct sim_script *script,
			    const struct sim_child_options *options, struct sim_stats *stats)
{
	if (options->quiet) {
		int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
		dup2(null, 2);
	}
	alarm(options->seconds);
	sim_run_script(script, stats, &options->run);
	exit(0); /* not _exit: the leak checker runs */
}

int sim_run_child(const struct sim_script *script, const struct sim_child_options *options,
		  struct sim_stats *stats)
{
	struct sim_stats *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
					MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cow_assert(shared != MAP_FAILED);
	fflush(NULL);
	pid_t pid = fork();
	cow_assert(pid >= 0);
	if (!pid)
		child(script, options, shared);
	int status;
	cow_assert(waitpid(pid, &status, 0) == pid);
	if (stats)
		*stats = *shared;
	munmap(shared, sizeof(*shared));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Under a few schedules, since leaving something out changes what the scheduler's numbers mean. */
static bool still_fails(struct sim_script *script)
{
	struct sim_child_options options = { .quiet = true, .seconds = 20 };
	uint64_t seed = script->config.seed;
	for (unsigned i = 0; i < 6; i++) {
		script->config.seed = seed + i;
		if (sim_run_child(script, &options, NULL))
			return true;
	}
	script->config.seed = seed;
	return false;
}

static struct sim_script without(const struct sim_script *script, unsigned first, unsigned nr)
{
	struct sim_script s = { .config = script->config };
	for (unsigned i = 0; i < script->nr; i++)
		if (i < first || i >= first + nr)
			sim_script_add(&s, &script->actions[i]);
	return s;
}

static bool try_without(struct sim_script *script, unsigned first, unsigned nr)
{
	struct sim_script candidate = without(script, first, nr);
	if (!still_fails(&candidate)) {
		sim_script_fini(&candidate);
		return false;
	}
	sim_script_fini(script);
	*script = candidate;
	return true;
}

/* Simpler settings, one at a time. */
static void simplify(struct sim_script *script)
{
	static const struct {
		size_t at;
		uint64_t value;
	} wishes[] = {
		{ offsetof(struct sim_config, noise), 0 },
		{ offsetof(struct sim_config, permille), 0 },
		{ offsetof(struct sim_config, backing), 0 },
		{ offsetof(struct sim_config, queues), 1 },
		{ offsetof(struct sim_config, depth), 2 },
		{ offsetof(struct sim_config, cache_bytes), 0 },
		{ offsetof(struct sim_config, no_discard), 0 },
		{ offsetof(struct sim_config, detect_zeroes), 0 },
		{ offsetof(struct sim_config, ext_l2), 0 },
		{ offsetof(struct sim_config, encrypt), 0 },
		{ offsetof(struct sim_config, data_file), 0 },
		{ offsetof(struct sim_config, block_device), 0 },
		{ offsetof(struct sim_config, deep_bytes), 0 },
		{ offsetof(struct sim_config, other), 0 },
		{ offsetof(struct sim_config, name_bytes), 0 },
		{ offsetof(struct sim_config, base_encrypt), 0 },
		{ offsetof(struct sim_config, base_pack), 0 },
		{ offsetof(struct sim_config, base_snapshot), 0 },
		{ offsetof(struct sim_config, lazy), 0 },
		{ offsetof(struct sim_config, buffered), 0 },
	};
	for (unsigned i = 0; i < sizeof(wishes) / sizeof(wishes[0]); i++) {
		uint64_t *field = (uint64_t *)(void *)((char *)&script->config + wishes[i].at),
			 old = *field;
		*field = wishes[i].value;
		if (old != *field && !still_fails(script))
			*field = old;
	}
}

bool sim_shrink(struct sim_script *script)
{
	if (!still_fails(script))
		return false;
	for (unsigned nr = script->nr / 2; nr; nr = nr > 1 ? nr / 2 : 0) {
		unsigned first = 0;
		while (first < script->nr) {
			if (!try_without(script, first, nr))
				first += nr;
			if (isatty(2))
				fprintf(stderr, "\rshrinking: %u actions, steps of %u   ",
					script->nr, nr);
		}
	}
	simplify(script);
	if (isatty(2))
		fprintf(stderr, "\n");
	return true;
}
