/* SPDX-License-Identifier: MIT */
#include "tests/sim/exhaustive.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "tests/sim/snapshot.h"
#include "tests/sim/sweep.h"

#define CLUSTERS 6u
#define MAX_DEPTH 4u

/* ---- the kinds of images ---- */

static const struct {
	const char *name;
	struct sim_config config;
	bool snapshot; /* what is written first is shared with one */
} kinds[] = {
	{ "512-byte clusters", { .cluster_bits = 9 }, false },
	{ "shared with a snapshot", { .cluster_bits = 10 }, true },
	{ "1-bit refcounts", { .cluster_bits = 10, .refcount_bits = 1 }, false },
	{ "version 2 over a raw file",
	  { .cluster_bits = 10,
	    .version = 2,
	    .backing = SIM_BACKING_RAW,
	    .name_bytes = 400,
	    .other_bytes = 5 << 10,
	    .other = SIM_BACKING_QCOW2 },
	  false },
	{ "over a compressed image",
	  { .cluster_bits = 12,
	    .backing = SIM_BACKING_QCOW2,
	    .base_bits = 12,
	    .base_pack = 1,
	    .name_bytes = 700,
	    .backing_bytes = 5 << 12,
	    .other = SIM_BACKING_RAW },
	  false },
	{ "subclusters",
	  { .cluster_bits = 14,
	    .ext_l2 = 1,
	    .backing = SIM_BACKING_RAW,
	    .other = SIM_BACKING_QCOW2 },
	  false },
	{ "compressed", { .cluster_bits = 12, .compress = 1 }, false },
	{ "LUKS", { .cluster_bits = 10, .encrypt = SIM_ENCRYPT_XTS }, false },
	{ "raw data file", { .cluster_bits = 12, .data_file = SIM_DATA_RAW }, false },
	{ "data file", { .cluster_bits = 10, .data_file = SIM_DATA_OUTSIDE }, false },
	{ "block device", { .cluster_bits = 10, .block_device = 1 }, false },
	{ "lazy refcounts", { .cluster_bits = 10, .lazy = 1 }, false },
	{ "dirty bitmap", { .cluster_bits = 10, .bitmap = 9 }, false },
	{ "over a chain",
	  { .cluster_bits = 9,
	    .backing = SIM_BACKING_QCOW2,
	    .base_bits = 9,
	    .backing_bytes = 4 << 9,
	    .deep_bytes = 6 << 9 },
	  false },
};
#define NR_KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* ---- the operations ---- */

enum {
	OP_WRITE,
	OP_PART,
	OP_DISCARD,
	OP_ZEROES,
	OP_FLUSH,
	OP_FUA,
	OP_SNAPSHOT,
	OP_REOPEN,
	OP_BITMAP_ADD,
	OP_BITMAP_TOGGLE,
	OP_BITMAP_REMOVE,
	NR_OPEN_OPS,
	/* on the closed image: enum sim_tool_what, and variants */
	OP_TOOL = NR_OPEN_OPS,
	OP_COMMIT_INTO = OP_TOOL + SIM_NR_TOOLS,
	OP_COMPRESS,
	OP_RESIZE_METADATA,
	OP_RESIZE_FULL,
	OP_AMEND_WIDER,
	OP_AMEND_NARROWER,
	OP_KEYS_SECOND, /* those of the header's other sector */
	NR_OPS
};

static struct sim_action action_of(unsigned op, uint64_t cluster)
{
	const uint64_t two = 2 * cluster, part = cluster > 512 ? 1024 : 512;
	switch (op) {
	case OP_WRITE:
		return (struct sim_action){ .kind = SIM_GUEST_WRITE, .length = two };
	case OP_PART:
		return (struct sim_action){ .kind = SIM_GUEST_WRITE,
					    .offset = two - 512,
					    .length = part };
	case OP_DISCARD:
		return (struct sim_action){ .kind = SIM_DISCARD, .offset = cluster, .length = two };
	case OP_ZEROES:
		return (struct sim_action){ .kind = SIM_ZEROES, .length = two, .queue = 1 };
	case OP_FLUSH:
		return (struct sim_action){ .kind = SIM_FLUSH, .queue = 1 };
	case OP_FUA:
		return (struct sim_action){ .kind = SIM_GUEST_WRITE,
					    .offset = cluster,
					    .length = 512,
					    .flags = SIM_FUA,
					    .queue = 1 };
	case OP_SNAPSHOT:
		return (struct sim_action){ .kind = SIM_LIVE, .length = SIM_SNAPSHOT_CREATE };
	case OP_REOPEN:
		return (struct sim_action){ .kind = SIM_REOPEN };
	case OP_COMMIT_INTO:
		return (struct sim_action){ .kind = SIM_TOOL,
					    .length = SIM_TOOL_COMMIT,
					    .queue = 2 };
	case OP_COMPRESS:
		return (struct sim_action){ .kind = SIM_TOOL,
					    .length = SIM_TOOL_COMPACT,
					    .queue = 5 };
	case OP_RESIZE_METADATA:
	case OP_RESIZE_FULL:
		return (struct sim_action){ .kind = SIM_TOOL,
					    .length = SIM_TOOL_RESIZE,
					    .queue = op == OP_RESIZE_FULL ? 3 : 1 };
	case OP_AMEND_WIDER:
	case OP_AMEND_NARROWER:
		return (struct sim_action){ .kind = SIM_TOOL,
					    .length = SIM_TOOL_AMEND,
					    .queue = 1 + op - OP_AMEND_WIDER };
	case OP_KEYS_SECOND:
		return (struct sim_action){ .kind = SIM_TOOL, .length = SIM_TOOL_KEYS, .queue = 1 };
	default:
		if (op >= OP_TOOL)
			return (struct sim_action){ .kind = SIM_TOOL, .length = op - OP_TOOL };
		return (struct sim_action){ .kind = SIM_BITMAP, .length = op - OP_BITMAP_ADD };
	}
}

/* Is there such a thing for this kind of image? */
static bool has(unsigned kind, unsigned op)
{
	const struct sim_config *c = &kinds[kind].config;
	if (op == OP_COMMIT_INTO)
		return c->deep_bytes;
	if (op == OP_COMPRESS)
		return (c->cluster_bits >= 12 || kinds[kind].snapshot) && !c->data_file;
	if (op == OP_AMEND_WIDER || op == OP_AMEND_NARROWER)
		return c->version != 2;
	if (op == OP_KEYS_SECOND || op == OP_TOOL + SIM_TOOL_KEYS)
		return c->encrypt;
	if (op == OP_TOOL + SIM_TOOL_RESIZE || op == OP_RESIZE_METADATA || op == OP_RESIZE_FULL)
		return !c->data_file && !c->bitmap && !c->block_device;
	if (op >= OP_TOOL)
		return c->backing || op == OP_TOOL + SIM_TOOL_AMEND ||
		       op == OP_TOOL + SIM_TOOL_COMPACT;
	if (op == OP_SNAPSHOT)
		return !c->data_file;
	if (op == OP_BITMAP_ADD)
		return c->version != 2 && !c->block_device;
	if (op > OP_BITMAP_ADD)
		return c->bitmap;
	return true;
}

static void add(struct sim_script *script, struct sim_action a)
{
	sim_script_add(script, &a);
}

/* An image whose first clusters hold data. */
static void make(struct sim_script *script, unsigned kind, uint64_t seed)
{
	struct sim_config *c = &script->config;
	*script = (struct sim_script){ .config = kinds[kind].config };
	/* what is not shared is half new, so that a part of a cluster is copied or filled up */
	unsigned written = kinds[kind].snapshot ? 4 : 2;
	uint64_t cluster = 1ull << c->cluster_bits;
	c->seed = seed;
	c->size_bytes = CLUSTERS * cluster;
	c->other_bytes = c->other_bytes ? c->other_bytes : c->size_bytes;
	c->backing_bytes = c->backing_bytes ? c->backing_bytes : c->size_bytes;
	c->tool = 1;
	c->version = c->version ? c->version : 3;
	c->refcount_bits = c->refcount_bits ? c->refcount_bits : 16;
	c->queues = 2;
	c->depth = 4;
	c->cache_bytes = 1;
	c->reserve_bytes = 1;
	c->limits.ring_own = 128;
	c->limits.ring = 192;
	c->limits.release_batch = 16;
	c->limits.bounces = 2;
	c->limits.inflated = 2;
	add(script, (struct sim_action){ .kind = SIM_GUEST_WRITE, .length = written * cluster });
	add(script, (struct sim_action){ .kind = SIM_DRAIN });
	if (kinds[kind].snapshot)
		add(script, action_of(OP_SNAPSHOT, cluster));
	add(script, (struct sim_action){ .kind = SIM_FLUSH });
	add(script, (struct sim_action){ .kind = SIM_DRAIN });
	if (c->encrypt) /* a second key slot: one goes, one comes */
		add(script, action_of(OP_KEYS_SECOND, cluster));
	c->sweep = script->nr + 1;
}

/* ---- processes ---- */

#define SECONDS 300u /* of an action's own time */
#define SAID 3	     /* exit status: it failed, and the script is printed */

/* The image as it stands, with a sequence so far; a process of its own for each that goes on. */
struct tree {
	unsigned kind;
	struct sim_script script;
	struct sim_run *run;
};

/* In a process: runs what the script has got. */
static void go_on(struct tree *t)
{
	sim_sweep_limit(SECONDS);
	sim_run_actions(t->run);
	sim_sweep_limit(0);
}

static _Noreturn void run_to_its_end(struct tree *t)
{
	struct sim_stats stats;
	go_on(t);
	sim_run_end(t->run, &stats);
	exit(0); /* not _exit: the leak checker runs */
}

/* Who sees it first says so: ends this process, as it ends those above. */
static void must_be_sound(const struct tree *t, pid_t pid)
{
	int status;
	cow_assert(pid > 0 && waitpid(pid, &status, 0) == pid);
	if (!status)
		return;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != SAID) {
		fprintf(stderr, "cow_sim: FAILED (status %#x): %s\n", (unsigned)status,
			kinds[t->kind].name);
		sim_script_print(&t->script, stdout);
		fflush(stdout);
	}
	_exit(SAID);
}

/* True in the process that was forked for one more action. */
static bool branch(struct tree *t, struct sim_action a)
{
	unsigned nr = t->script.nr;
	uint64_t sweep = t->script.config.sweep;
	add(&t->script, a);
	if (a.kind != SIM_REOPEN && a.kind != SIM_TOOL && !(a.flags & SIM_EAGER))
		add(&t->script, (struct sim_action){ .kind = SIM_DRAIN });
	t->script.config.sweep = nr + 1;
	pid_t pid = fork();
	if (!pid)
		return true;
	must_be_sound(t, pid);
	t->script.nr = nr;
	t->script.config.sweep = sweep;
	return false;
}

/* A sequence is over: the image is closed. */
static void close_image(struct tree *t)
{
	t->run->sweep->counts.sequences++;
	if (branch(t, (struct sim_action){ .kind = SIM_REOPEN }))
		run_to_its_end(t);
}

/* ---- sequences ---- */

/* One by one: what sequences have in common at their beginning is done once. */
static void one_by_one(struct tree *t, unsigned depth)
{
	uint64_t cluster = 1ull << t->script.config.cluster_bits;
	for (unsigned op = 0; op < NR_OPS; op++) {
		/* the last one needs no opening again: it is closed anyhow */
		if (!has(t->kind, op) || (depth == 1 && op == OP_REOPEN) ||
		    !branch(t, action_of(op, cluster)))
			continue;
		go_on(t);
		if (op != OP_REOPEN)
			close_image(t);
		if (depth > 1)
			one_by_one(t, depth - 1);
		_exit(0);
	}
}

/* All at once: a command has those that follow it up to the next one beside it. */
static void all_at_once(struct tree *t, const unsigned *ops, unsigned nr)
{
	uint64_t cluster = 1ull << t->script.config.cluster_bits;
	unsigned before = t->script.nr;
	for (unsigned i = 0; i < nr; i++) {
		struct sim_action a = action_of(ops[i], cluster);
		a.flags |= SIM_EAGER;
		add(&t->script, a);
	}
	add(&t->script, (struct sim_action){ .kind = SIM_REOPEN });
	t->run->sweep->counts.sequences++;
	pid_t pid = fork();
	if (!pid)
		run_to_its_end(t);
	must_be_sound(t, pid);
	t->script.nr = before;
}

static void every_sequence(struct tree *t, unsigned *ops, unsigned nr, unsigned depth)
{
	for (ops[nr] = 0; ops[nr] < NR_OPEN_OPS; ops[nr]++) {
		if (!has(t->kind, ops[nr]))
			continue;
		if (nr + 1 < depth)
			every_sequence(t, ops, nr + 1, depth);
		else if (ops[nr] != OP_REOPEN)
			all_at_once(t, ops, depth);
	}
}

/* One after the other, each of a verb's host operations fails, or finds the host full from there on. */
static void every_fault(struct tree *t, unsigned op, unsigned flag)
{
	struct sim_action a = action_of(op, 1ull << t->script.config.cluster_bits);
	struct sim_sweep *sweep = t->run->sweep;
	a.flags = flag;
	do {
		a.offset++;
		sweep->met_fault = false;
		if (branch(t, a)) {
			t->script.config.sweep = UINT64_MAX;
			run_to_its_end(t);
		}
		sweep->counts.faults += sweep->met_fault;
	} while (sweep->met_fault);
}

static void faults_of_tools(struct tree *t)
{
	for (unsigned op = OP_TOOL; op < NR_OPS; op++) {
		if (!has(t->kind, op))
			continue;
		every_fault(t, op, SIM_FAILS);
		every_fault(t, op, SIM_NO_ROOM);
	}
}

static _Noreturn void run_kind(unsigned kind, unsigned depth, const struct sim_run_options *options)
{
	struct tree t = { .kind = kind };
	unsigned ops[MAX_DEPTH];
	make(&t.script, kind, 1 + kind);
	t.run = sim_run_begin(&t.script, options);
	go_on(&t);
	one_by_one(&t, depth);
	faults_of_tools(&t);
	for (unsigned nr = 2; nr <= depth; nr++)
		every_sequence(&t, ops, 0, nr);
	_exit(0);
}

static uint64_t cpu_ms(void)
{
	struct rusage u;
	getrusage(RUSAGE_CHILDREN, &u);
	return 1000 * (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
}

static void say(const char *what, const struct sim_sweep_counts *c, uint64_t ms)
{
	printf("%s: %llu sequences, power lost at %llu moments in %llu ways, %llu different "
	       "states checked, %llu errors put in, %llu.%llu s of processor time\n",
	       what, (unsigned long long)c->sequences, (unsigned long long)c->moments,
	       (unsigned long long)c->ways, (unsigned long long)c->states,
	       (unsigned long long)c->faults, (unsigned long long)(ms / 1000),
	       (unsigned long long)(ms % 1000 / 100));
	fflush(stdout);
}

static void add_counts(struct sim_sweep_counts *sum, const struct sim_sweep_counts *c)
{
	sum->sequences += c->sequences;
	sum->moments += c->moments;
	sum->ways += c->ways;
	sum->states += c->states;
	sum->faults += c->faults;
}

static int do_kind(unsigned kind, unsigned depth, const struct sim_run_options *options,
		   struct sim_sweep_counts *sum)
{
	struct sim_run_options mine = *options;
	struct sim_sweep *sweep = sim_sweep_new();
	uint64_t before = cpu_ms();
	int status;
	mine.sweep = sweep;
	fflush(NULL);
	pid_t pid = fork();
	if (!pid)
		run_kind(kind, depth, &mine);
	cow_assert(pid > 0 && waitpid(pid, &status, 0) == pid);
	if (status)
		fprintf(stderr, "cow_sim: %s: not sound (status %#x)\n", kinds[kind].name,
			(unsigned)status);
	say(kinds[kind].name, &sweep->counts, cpu_ms() - before);
	add_counts(sum, &sweep->counts);
	sim_sweep_free(sweep);
	return status ? 1 : 0;
}

int sim_exhaustive(unsigned depth, unsigned only, const struct sim_run_options *options)
{
	struct sim_sweep_counts sum = { 0 };
	if (depth > MAX_DEPTH || only > NR_KINDS) {
		fprintf(stderr, "cow_sim: at most %u operations, kinds 1 to %zu\n", MAX_DEPTH,
			NR_KINDS);
		return 2;
	}
	for (unsigned kind = 0; kind < NR_KINDS; kind++)
		if ((!only || only == kind + 1) && do_kind(kind, depth, options, &sum))
			return 1;
	say("cow_sim", &sum, cpu_ms());
	return 0;
}
