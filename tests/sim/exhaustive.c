/* SPDX-License-Identifier: MIT */
#include "tests/sim/exhaustive.h"

#include <stdio.h>
#include <string.h>

#include "tests/sim/snapshot.h"

#define CLUSTERS 6u

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
	  { .cluster_bits = 10, .version = 2, .backing = SIM_BACKING_RAW },
	  false },
	{ "over a compressed image",
	  { .cluster_bits = 12, .backing = SIM_BACKING_QCOW2, .base_bits = 12, .base_pack = 1 },
	  false },
	{ "subclusters", { .cluster_bits = 14, .ext_l2 = 1, .backing = SIM_BACKING_RAW }, false },
	{ "compressed", { .cluster_bits = 12, .compress = 1 }, false },
	{ "LUKS", { .cluster_bits = 10, .encrypt = SIM_ENCRYPT_XTS }, false },
	{ "raw data file", { .cluster_bits = 12, .data_file = SIM_DATA_RAW }, false },
	{ "data file", { .cluster_bits = 10, .data_file = SIM_DATA_OUTSIDE }, false },
	{ "block device", { .cluster_bits = 10, .block_device = 1 }, false },
	{ "lazy refcounts", { .cluster_bits = 10, .lazy = 1 }, false },
	{ "dirty bitmap", { .cluster_bits = 10, .bitmap = 9 }, false },
};
#define NR_KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* ---- the operations ---- */

enum { OP_WRITE, OP_PART, OP_DISCARD, OP_ZEROES, OP_FLUSH, OP_FUA, OP_SNAPSHOT, OP_REOPEN, NR_OPS };

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
	default:
		return (struct sim_action){ .kind = SIM_REOPEN };
	}
}

static void add(struct sim_script *script, struct sim_action a)
{
	sim_script_add(script, &a);
}

/* The first clusters hold data; then the sequence, at once or one by one; then the image is closed. */
static void make(struct sim_script *script, unsigned kind, const unsigned *ops, unsigned nr,
		 unsigned serial)
{
	struct sim_config *c = &script->config;
	*script = (struct sim_script){ .config = kinds[kind].config };
	/* what is not shared is half new, so that a part of a cluster is copied or filled up */
	unsigned written = kinds[kind].snapshot ? 4 : 2;
	uint64_t cluster = 1ull << c->cluster_bits;
	c->seed = serial;
	c->size_bytes = c->backing_bytes = CLUSTERS * cluster;
	c->version = c->version ? c->version : 3;
	c->refcount_bits = c->refcount_bits ? c->refcount_bits : 16;
	c->queues = 2;
	c->depth = 4;
	c->cache_bytes = 1;
	c->reserve_bytes = 1;
	c->limits.bounces = 2;
	c->limits.inflated = 2;
	add(script, (struct sim_action){ .kind = SIM_GUEST_WRITE, .length = written * cluster });
	add(script, (struct sim_action){ .kind = SIM_DRAIN });
	if (kinds[kind].snapshot)
		add(script, action_of(OP_SNAPSHOT, cluster));
	add(script, (struct sim_action){ .kind = SIM_FLUSH });
	add(script, (struct sim_action){ .kind = SIM_DRAIN });
	c->sweep = script->nr + 1;
	for (unsigned i = 0; i < nr; i++) {
		struct sim_action a = action_of(ops[i], cluster);
		a.flags |= serial % 2 ? SIM_EAGER : 0;
		add(script, a);
		if (serial % 2 == 0)
			add(script, (struct sim_action){ .kind = SIM_DRAIN });
	}
	add(script, (struct sim_action){ .kind = SIM_REOPEN });
}

static int run_one(unsigned kind, const unsigned *ops, unsigned nr, unsigned serial,
		   const struct sim_child_options *options)
{
	struct sim_script script;
	make(&script, kind, ops, nr, serial);
	int status = sim_run_child(&script, options, NULL);
	if (status) {
		fprintf(stderr, "cow_sim: FAILED (%d): %s, sequence %u\n", status, kinds[kind].name,
			serial);
		sim_script_print(&script, stdout);
	}
	sim_script_fini(&script);
	return status;
}

static int all_of_length(unsigned kind, unsigned nr, unsigned *serial,
			 const struct sim_child_options *options)
{
	unsigned total = 1, ops[8];
	for (unsigned i = 0; i < nr; i++)
		total *= NR_OPS;
	for (unsigned n = 0; n < total; n++) {
		for (unsigned i = 0, rest = n; i < nr; i++, rest /= NR_OPS)
			ops[i] = rest % NR_OPS;
		/* the last one needs no opening again: it is closed anyhow */
		if (ops[nr - 1] != OP_REOPEN && run_one(kind, ops, nr, ++*serial, options))
			return 1;
	}
	return 0;
}

int sim_exhaustive(unsigned depth, const struct sim_child_options *options)
{
	unsigned serial = 0;
	for (unsigned kind = 0; kind < NR_KINDS; kind++) {
		for (unsigned nr = 1; nr <= depth; nr++)
			if (all_of_length(kind, nr, &serial, options))
				return 1;
		printf("%s: sound, %u sequences so far\n", kinds[kind].name, serial);
		fflush(stdout);
	}
	printf("cow_sim: %u sequences of up to %u operations, power lost at every host operation\n",
	       serial, depth);
	return 0;
}
