/* SPDX-License-Identifier: MIT */
#include "tests/interop/random_options.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/crypt/secret.h"
#include "tests/interop/model.h"
#include "tests/interop/workload.h"

_Noreturn void random_die(const char *what, const char *why)
{
	fprintf(stderr, "cow_random: %s: %s\n", what, why);
	exit(2);
}

static const struct option long_options[] = {
	{ "image", required_argument, NULL, 'i' },
	{ "shadow", required_argument, NULL, 's' },
	{ "seed", required_argument, NULL, 'S' },
	{ "ops", required_argument, NULL, 'n' },
	{ "queues", required_argument, NULL, 'q' },
	{ "depth", required_argument, NULL, 'd' },
	{ "rounds", required_argument, NULL, 'r' },
	{ "mix", required_argument, NULL, 'm' },
	{ "max-bytes", required_argument, NULL, 'b' },
	{ "cache-bytes", required_argument, NULL, 'c' },
	{ "timeout", required_argument, NULL, 't' },
	{ "detect-zeroes", required_argument, NULL, 'z' },
	{ "zero-percent", required_argument, NULL, 'Z' },
	{ "backing-root", required_argument, NULL, 'R' },
	{ "sync-loop", no_argument, NULL, 'y' },
	{ "no-verify", no_argument, NULL, 'V' },
	{ "kill", no_argument, NULL, 'k' },
	{ "no-discard", no_argument, NULL, 'D' },
	{ "buffered", no_argument, NULL, 'B' },
	{ "key-file", required_argument, NULL, 'K' },
	{ "compress", no_argument, NULL, 'C' },
	{ "live-snapshots", required_argument, NULL, 'L' },
	{ "live-bitmaps", no_argument, NULL, 'l' },
	{ "tiny-limits", no_argument, NULL, 'T' },
	{ "written", required_argument, NULL, 'w' },
	{ NULL, 0, NULL, 0 },
};

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);
	if (end == text || *end)
		random_die(text, "not a number");
	return value;
}

static enum cow_detect_zeroes detect_zeroes(const char *text)
{
	if (!strcmp(text, "unmap"))
		return COW_DETECT_ZEROES_UNMAP;
	return strcmp(text, "on") ? COW_DETECT_ZEROES_OFF : COW_DETECT_ZEROES_ON;
}

/* The file's whole content is the passphrase, as QEMU's secret objects take it. */
static void read_key(struct random_options *opt, const char *path)
{
	static const struct cow_secret *secret;
	struct cow_secret *s = cow_secret_new();
	FILE *f = fopen(path, "r");
	if (!s || !f)
		random_die(path, "cannot read the key");
	s->bytes = fread(s->data, 1, sizeof(s->data), f);
	fclose(f);
	secret = s;
	opt->open.secrets = &secret;
	opt->open.nr_secrets = 1;
	opt->open.write_legacy_aes = true;
}

/* A line at a time: the process may be killed. */
static void open_written(struct random_options *opt, const char *path)
{
	opt->written = fopen(path, "w");
	if (!opt->written)
		random_die(path, strerror(errno));
	setlinebuf(opt->written);
}

static void parse_one(struct random_options *opt, int c, const char *arg)
{
	static const char *root;
	switch (c) {
	case 'i':
		opt->image = arg;
		break;
	case 's':
		opt->shadow = arg;
		break;
	case 'S':
		opt->seed = number(arg);
		break;
	case 'n':
		opt->ops = number(arg);
		break;
	case 'q':
		opt->queues = (unsigned)number(arg);
		break;
	case 'd':
		opt->depth = (unsigned)number(arg);
		break;
	case 'r':
		opt->rounds = (unsigned)number(arg);
		break;
	case 'm':
		opt->mix = arg;
		break;
	case 'b':
		opt->max_bytes = number(arg);
		break;
	case 'c':
		opt->open.cache_bytes = number(arg);
		break;
	case 't':
		opt->timeout_seconds = (unsigned)number(arg);
		break;
	case 'z':
		opt->open.detect_zeroes = detect_zeroes(arg);
		break;
	case 'Z':
		opt->zero_percent = (unsigned)number(arg);
		break;
	case 'R':
		root = arg;
		opt->open.backing_roots = &root;
		opt->open.nr_backing_roots = 1;
		break;
	case 'y':
		opt->sync_loop = true;
		break;
	case 'V':
		opt->no_verify = true;
		break;
	case 'k':
		opt->kill = true;
		break;
	case 'D':
		opt->open.no_discard = true;
		break;
	case 'B':
		opt->open.buffered = true;
		break;
	case 'K':
		read_key(opt, arg);
		break;
	case 'C':
		opt->open.compress = true;
		break;
	case 'L':
		opt->live_snapshots = (unsigned)number(arg);
		break;
	case 'l':
		opt->live_bitmaps = true;
		break;
	case 'T':
		opt->tiny_limits = true;
		break;
	case 'w':
		open_written(opt, arg);
		break;
	default:
		exit(2);
	}
}

static void draw_limits(struct random_options *opt)
{
	struct rng rng = { opt->seed };
	struct cow_limits *l = &opt->limits;
	l->release_batch = (uint32_t)rng_below(&rng, 16);
	l->release_punches = 1 + (uint32_t)rng_below(&rng, 4);
	l->cache_slots = 8 + (uint32_t)rng_below(&rng, 32);
	l->dirty_slots = (uint32_t)rng_below(&rng, 8);
	l->dirty_blocks = (uint32_t)rng_below(&rng, 3);
	l->pass_writes = 1 + (uint32_t)rng_below(&rng, 4);
	l->extents = 2 + (uint32_t)rng_below(&rng, 8);
	l->pieces = 1 + (uint32_t)rng_below(&rng, 4);
	l->bounces = 1 + (uint32_t)rng_below(&rng, 3);
	l->packed = 1 + (uint32_t)rng_below(&rng, 2);
	l->pack_clusters = 1 + (uint32_t)rng_below(&rng, 4);
	l->inflated = 1 + (uint32_t)rng_below(&rng, 4);
	opt->open.limits = l;
}

void random_options_parse(struct random_options *opt, int argc, char **argv)
{
	static const char *const data_root = "/";
	*opt = (struct random_options){
		.ops = 2000, .queues = 2, .depth = 16, .rounds = 2, .timeout_seconds = 120
	};
	opt->open.data_roots = &data_root;
	opt->open.nr_data_roots = 1;
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	opt->seed = (uint64_t)now.tv_nsec;
	int c;
	while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		parse_one(opt, c, optarg);
	if (!opt->image || optind != argc)
		random_die("usage", "cow_random --image IMAGE [--shadow RAW] [--seed N] [--ops N] "
				    "[--queues N] [--depth N] ...");
	if (!opt->queues || !opt->depth || !opt->rounds ||
	    opt->queues * opt->depth > MODEL_MAX_READERS)
		random_die("usage", "queues, depth and rounds must be positive");
	if (opt->kill && opt->no_verify)
		random_die("usage", "--kill needs the model");
	if (opt->tiny_limits)
		draw_limits(opt);
}
