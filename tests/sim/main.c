/* SPDX-License-Identifier: MIT */
/*
 * cow_sim: the engine under a simulated host. Every run is made from one seed; a failing one is
 * named by it.
 *
 *   cow_sim --seed N --runs N            a fixed number of runs
 *   cow_sim --seed N --seconds S         as many as fit; --cpu-seconds: of processor time
 *   cow_sim --seed N --shrink            a short script that fails like seed N, on standard output
 *   cow_sim --script FILE [--trace]      replay one
 *   cow_sim --seed N --runs N --qemu P   QEMU's opinion about P % of the crash states (second.h)
 *   cow_sim --exhaustive N [--kind K]    every sequence of up to N operations (exhaustive.h)
 */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/exhaustive.h"
#include "tests/sim/prepare.h"
#include "tests/sim/shrink.h"

struct arguments {
	uint64_t seed, runs, seconds, cpu_seconds;
	struct sim_plan plan;
	struct sim_child_options child;
	const char *script;
	unsigned exhaustive, kind;
	bool shrink, print, keep_going;
};

static const struct option options[] = {
	{ "seed", required_argument, NULL, 's' },
	{ "runs", required_argument, NULL, 'r' },
	{ "seconds", required_argument, NULL, 't' },
	{ "cpu-seconds", required_argument, NULL, 'u' },
	{ "crash-every", required_argument, NULL, 'c' },
	{ "actions", required_argument, NULL, 'a' },
	{ "exhaustive", required_argument, NULL, 'x' },
	{ "kind", required_argument, NULL, 'i' },
	{ "script", required_argument, NULL, 'f' },
	{ "dump", required_argument, NULL, 'd' },
	{ "qemu", required_argument, NULL, 'q' },
	{ "no-faults", no_argument, NULL, 'F' },
	{ "shrink", no_argument, NULL, 'k' },
	{ "print", no_argument, NULL, 'p' },
	{ "trace", no_argument, NULL, 'T' },
	{ "keep-going", no_argument, NULL, 'K' },
	{ NULL, 0, NULL, 0 },
};

static int usage(void)
{
	fprintf(stderr, "usage: cow_sim [--seed N] [--runs N | --seconds S | --cpu-seconds S] "
			"[--crash-every N] "
			"[--actions N] [--no-faults] [--qemu PERCENT]\n"
			"               [--keep-going] [--trace] [--dump DIR] [--print | --shrink] "
			"[--script FILE]\n"
			"               --exhaustive N [--kind K]\n");
	return 2;
}

static bool set_option(struct arguments *a, int c)
{
	uint64_t n = optarg ? strtoull(optarg, NULL, 0) : 0;
	switch (c) {
	case 's':
		a->seed = n;
		break;
	case 'r':
		a->runs = n;
		break;
	case 't':
		a->seconds = n;
		break;
	case 'u':
		a->cpu_seconds = n;
		break;
	case 'c':
		a->plan.crash_every = n;
		break;
	case 'a':
		a->plan.nr_actions = n;
		break;
	case 'f':
		a->script = optarg;
		break;
	case 'x':
		a->exhaustive = (unsigned)n;
		break;
	case 'i':
		a->kind = (unsigned)n;
		break;
	case 'd':
		a->child.run.dump_dir = optarg;
		break;
	case 'q':
		a->child.run.second_percent = (unsigned)n;
		break;
	case 'F':
		a->plan.faults = false;
		break;
	case 'k':
		a->shrink = true;
		break;
	case 'p':
		a->print = true;
		break;
	case 'T':
		a->child.run.trace = true;
		break;
	case 'K':
		a->keep_going = true;
		break;
	default:
		return false;
	}
	return true;
}

/* An exit status. */
static int shrink(struct sim_script *script)
{
	if (!sim_shrink(script)) {
		fprintf(stderr, "cow_sim: it does not fail: there is nothing to shrink\n");
		return 1;
	}
	sim_script_print(script, stdout);
	return 0;
}

static int run_file(const struct arguments *a)
{
	struct sim_script script;
	unsigned line;
	FILE *f = fopen(a->script, "re");
	if (!f || sim_script_parse(&script, f, &line)) {
		fprintf(stderr, "cow_sim: cannot use script %s%s\n", a->script,
			f ? ": it is not one" : "");
		return 2;
	}
	fclose(f);
	int status = 0;
	if (a->shrink) {
		status = shrink(&script);
	} else {
		struct sim_stats stats;
		status = sim_run_child(&script, &a->child, &stats);
		printf("cow_sim: script %s: %s (%d)\n", a->script, status ? "FAILED" : "passed",
		       status);
	}
	sim_script_fini(&script);
	return status ? 1 : 0;
}

static void add(struct sim_stats *sum, const struct sim_stats *s)
{
	const uint64_t *from = (const uint64_t *)s;
	uint64_t *to = (uint64_t *)sum;
	for (size_t i = 0; i < sizeof(*s) / sizeof(*from); i++)
		to[i] += from[i];
}

static int run_seed(const struct arguments *a, uint64_t seed, struct sim_stats *sum)
{
	struct sim_script script;
	struct sim_stats stats = { 0 };
	sim_script_make(&script, seed, &a->plan);
	if (script.config.prepared && !sim_have_qemu()) /* such a seed means another run then */
		script.config.prepared = script.config.ext_l2 = SIM_PREPARED_NO;
	int status = 0;
	if (a->print)
		sim_script_print(&script, stdout);
	else
		status = sim_run_child(&script, &a->child, &stats);
	if (status) {
		const struct sim_config *c = &script.config;
		fprintf(stderr,
			"cow_sim: seed %llu FAILED (%s %d): clusters 2^%llu v%llu refcount %llu "
			"bits backing %llu: "
			"replay with --seed %llu --runs 1, shorten with --shrink\n",
			(unsigned long long)seed, status > 128 ? "signal" : "status",
			status > 128 ? status - 128 : status, (unsigned long long)c->cluster_bits,
			(unsigned long long)c->version, (unsigned long long)c->refcount_bits,
			(unsigned long long)c->backing, (unsigned long long)seed);
	}
	add(sum, &stats);
	sim_script_fini(&script);
	return status;
}

static int shrink_seed(const struct arguments *a)
{
	struct sim_script script;
	sim_script_make(&script, a->seed, &a->plan);
	int status = shrink(&script);
	sim_script_fini(&script);
	return status;
}

static uint64_t now_seconds(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec;
}

static uint64_t cpu_seconds(void)
{
	struct rusage u;
	getrusage(RUSAGE_CHILDREN, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec);
}

static bool go_on(const struct arguments *a, uint64_t start, uint64_t done)
{
	if (a->cpu_seconds)
		return cpu_seconds() < a->cpu_seconds;
	return a->seconds ? now_seconds() - start < a->seconds : done < a->runs;
}

static int run_seeds(const struct arguments *a)
{
	uint64_t start = now_seconds(), done = 0, failed = 0;
	struct sim_stats sum = { 0 };
	while (go_on(a, start, done)) {
		failed += run_seed(a, a->seed + done++, &sum) != 0;
		if (failed && !a->keep_going)
			break;
		if (isatty(2))
			fprintf(stderr, "\r%llu runs, %llu failed ", (unsigned long long)done,
				(unsigned long long)failed);
	}
	/* With --print standard output is a script. */
	fprintf(a->print ? stderr : stdout,
		"cow_sim: %llu runs from seed %llu, %llu failed; %llu requests (%llu failed as "
		"they "
		"had to), %llu host "
		"operations, %llu power losses, %llu kills (%llu replayed, %llu with a bitmap), "
		"%llu clean closes, "
		"%llu errors and "
		"%llu "
		"ENOSPC put in, %llu leak "
		"repairs, %llu refcount tables outgrown, %llu snapshot commands, %llu live ones "
		"(%llu all under a freeze), %llu disks resized, %llu cut off, %llu verbs on the "
		"closed "
		"image, %llu cut off, %llu bitmaps cleared "
		"or made, %llu found to be believed, %llu crash states seen by QEMU, %llu s\n",
		(unsigned long long)done, (unsigned long long)a->seed, (unsigned long long)failed,
		(unsigned long long)sum.ops, (unsigned long long)sum.failed_ops,
		(unsigned long long)sum.events, (unsigned long long)sum.crashes,
		(unsigned long long)sum.kills, (unsigned long long)sum.replays,
		(unsigned long long)sum.bitmaps_outlived, (unsigned long long)sum.reopens,
		(unsigned long long)sum.injected, (unsigned long long)sum.full,
		(unsigned long long)sum.repairs, (unsigned long long)sum.growths,
		(unsigned long long)sum.snapshots, (unsigned long long)sum.live,
		(unsigned long long)sum.all_frozen, (unsigned long long)sum.resized,
		(unsigned long long)sum.snapshots_lost, (unsigned long long)sum.tools,
		(unsigned long long)sum.tools_cut, (unsigned long long)sum.bitmaps,
		(unsigned long long)sum.believed, (unsigned long long)sum.second,
		(unsigned long long)(now_seconds() - start));
	if (a->child.run.second_percent && !sum.second && !failed) {
		fprintf(stderr, "cow_sim: --qemu: QEMU has seen no crash state\n");
		return 1;
	}
	return failed ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct arguments a = {
		.seed = 1,
		.runs = 1,
		.plan = { .nr_actions = 400, .crash_every = 60, .faults = true },
		.child = { .seconds = 120 },
	};
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (!set_option(&a, c))
			return usage();
	if (optind != argc)
		return usage();
	if (a.exhaustive)
		return sim_exhaustive(a.exhaustive, a.kind, &a.child.run);
	if (a.script)
		return run_file(&a);
	if (a.shrink)
		return shrink_seed(&a);
	return run_seeds(&a);
}
