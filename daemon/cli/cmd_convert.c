/* SPDX-License-Identifier: MIT */
/* cowblk convert: a disk's content into a new image. Options of `qemu-img convert`. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/options/create_options.h"
#include "daemon/options/tool_cmd.h"
#include "engine/base/number.h"
#include "engine/crypt/secret.h"
#include "engine/host/system.h"
#include "engine/tool/convert.h"
#include "engine/tool/convert_stream.h"
#include "engine/tool/convert_target.h"

#define SPARSE_DEFAULT 4096u
#define STATUS_LOST 3 /* all is there but what could not be read */

struct arguments {
	struct cow_tool tool; /* first; the images are the sources and, last, the target */
	unsigned nr_sources;
	struct cow_disk **sources;
	const char *out, *snapshot;
	enum cow_disk_format format;
	struct cow_target_spec target;
	struct cow_encrypt_options encrypt;
	struct cow_secrets secrets; /* the target's */
	const struct cow_secret *all[COW_MAX_SECRETS + 1];
	struct cow_bitmap_copy bitmaps;
	struct cow_salvage salvage; /* used with tool.disks.salvage */
	uint64_t rate;		    /* bytes a second; 0: no limit */
	uint64_t disk_bytes;	    /* the result's */
	bool compress, target_is_zero, offload, has_options, copy_bitmaps;
	const char *sparse;
	uint64_t sparse_bytes;
	unsigned nr_threads;
};

enum {
	KEY_ZERO = 256,
	KEY_TARGET_KEY,
	KEY_SALVAGE,
	KEY_BITMAPS,
	KEY_SKIP_BROKEN,
	KEY_MARK,
	KEY_DATA_ROOT
};

static const struct argp_option options[] = {
	{ "format", 'f', "qcow2|raw", 0, "Format of IMAGE: qcow2 (default) or raw", 0 },
	{ "target-format", 'O', "qcow2|raw", 0, "Format of TARGET: qcow2 (default) or raw", 0 },
	{ "snapshot", 'l', "SNAPSHOT", 0, "An internal snapshot of IMAGE, by its id or name", 0 },
	{ "option", 'o', "NAME=VALUE[,...]", 0, "How TARGET is made: see create; help lists them",
	  0 },
	{ "compress", 'c', NULL, 0, "Store what is written compressed, as the image's option says",
	  0 },
	{ "backing", 'B', "BASE", 0,
	  "TARGET gets this backing file: what IMAGE has from it is not copied", 0 },
	{ "backing-format", 'F', "qcow2|raw", 0, "Format of BASE: qcow2 or raw", 0 },
	{ "sparse", 'S', "SIZE", 0,
	  "So many zero bytes in a row become a hole (default 4k); 0: none do", 0 },
	{ "existing", 'n', NULL, 0, "TARGET exists and is only filled", 0 },
	{ "target-is-zero", KEY_ZERO, NULL, 0, "With -n: TARGET reads as zeros already", 0 },
	{ "bitmaps", KEY_BITMAPS, NULL, 0, "TARGET gets the persistent bitmaps of IMAGE, too", 0 },
	{ "skip-broken-bitmaps", KEY_SKIP_BROKEN, NULL, 0,
	  "With --bitmaps: leave out those that are inconsistent", 0 },
	{ "salvage", KEY_SALVAGE, NULL, 0,
	  "Go on where IMAGE cannot be read, with zeros; list what is lost, and end with 3", 0 },
	{ "mark-lost", KEY_MARK, NULL, 0,
	  "With --salvage: a line in each lost sector that says so, not zeros", 0 },
	{ "offload", 'C', NULL, 0, "Let the host copy where it can, without looking for zeros", 0 },
	{ "threads", 'm', "N", 0, "Pieces in flight, 1 to 16 (default: by the CPUs, 4 or more)",
	  0 },
	{ "out-of-order", 'W', NULL, 0, "Write in any order (as it always does)", 0 },
	{ "target-cache", 't', COW_CACHE_MODES, 0,
	  "none, directsync: write past the page cache; writeback (default), writethrough: through "
	  "it; unsafe: a raw TARGET is not waited for",
	  0 },
	COW_DISK_DATA_ROOT_OPTION(KEY_DATA_ROOT),
	{ "target-key-file", KEY_TARGET_KEY, "FILE", 0,
	  "Passphrase of an encrypted TARGET (default: the first one named below)", 0 },
	{ "rate-limit", 'r', "RATE", 0, "Write so many bytes a second at most", 0 },
	{ 0 },
};

/* ---- command line ---- */

static void parse_sparse(struct arguments *a, const char *arg, struct argp_state *state)
{
	unsigned long long bytes;
	if (cow_cmd_parse_size(arg, &bytes) || bytes % 512)
		argp_error(state, "-S %s: must be a multiple of 512 bytes", arg);
	a->sparse_bytes = bytes;
	a->sparse = arg;
}

static void parse_threads(struct arguments *a, const char *arg, struct argp_state *state)
{
	uint64_t n;
	if (!cow_number_parse(arg, COW_WALK_MAX_THREADS, &n) || !n)
		argp_error(state, "-m %s: must be a number from 1 to %u", arg,
			   COW_WALK_MAX_THREADS);
	a->nr_threads = (unsigned)n;
}

static const char *find_bitmap_conflict(const struct arguments *a)
{
	if (!a->copy_bitmaps)
		return a->bitmaps.skip_broken ? "--skip-broken-bitmaps: needs --bitmaps" : NULL;
	if (a->nr_sources > 1 || a->snapshot)
		return "--bitmaps: they are those of one image's disk: not with -l or several "
		       "images";
	if (a->format == COW_DISK_RAW || a->target.disk.format == COW_DISK_RAW)
		return "--bitmaps: a raw image has none";
	if (a->target.create.version == 2)
		return "--bitmaps: images of version 2 have none: leave out compat=0.10";
	return NULL;
}

static const char *find_conflict(const struct arguments *a)
{
	const struct cow_create_options *o = &a->target.create;
	bool raw = a->target.disk.format == COW_DISK_RAW;
	bool pipe = a->out && !strcmp(a->out, "-");
	if (!a->out)
		return a->tool.nr_images ? "TARGET is missing" : "IMAGE and TARGET are missing";
	if (a->nr_sources > 1 && (a->snapshot || o->backing_file))
		return "-l, -B: not where several images are joined";
	if (a->snapshot && a->format == COW_DISK_RAW)
		return "-l: a raw image has no snapshots";
	if (raw && (a->compress || o->backing_file || a->encrypt.wanted))
		return "-c, -B, encryption: a raw TARGET has none: say -O qcow2";
	if (pipe && (a->target.in_place || (raw && a->has_options)))
		return "-: standard output has no image, and no options: leave out -n and -o";
	if (pipe && a->compress)
		return "-c: compressed clusters have no place that is known ahead: not to standard "
		       "output";
	if (pipe && (o->backing_file || o->data_file || a->encrypt.wanted || a->copy_bitmaps ||
		     o->preallocation != COW_PREALLOC_OFF))
		return "-: not with a backing file, a data file, encryption, bitmaps or "
		       "preallocation";
	if (a->target_is_zero && !a->target.in_place)
		return "--target-is-zero: needs -n";
	if (a->target.in_place && (o->backing_file || a->has_options))
		return "-n: TARGET is not made: leave out -B and -o";
	if (a->compress && (a->encrypt.wanted || o->data_file))
		return "-c: not with encryption or an external data file";
	if (a->compress && o->preallocation != COW_PREALLOC_OFF)
		return "-c: not with preallocation";
	if (a->offload && (a->sparse || a->compress))
		return "-C: nothing is looked at: leave out -S and -c";
	if (a->tool.disks.salvage && a->offload)
		return "--salvage: all is read: leave out -C";
	if (a->salvage.mark && !a->tool.disks.salvage)
		return "--mark-lost: needs --salvage";
	return find_bitmap_conflict(a);
}

static error_t finish(struct arguments *a, struct argp_state *state)
{
	if (a->tool.nr_images > 1) {
		a->nr_sources = a->tool.nr_images - 1;
		a->out = a->tool.images[a->nr_sources];
	}
	const char *conflict = find_conflict(a);
	if (conflict)
		argp_error(state, "%s", conflict);
	if (!a->sparse)
		a->sparse_bytes = SPARSE_DEFAULT;
	if (!a->encrypt.wanted && a->encrypt.modified)
		argp_error(state, "-o encrypt....: needs encrypt.format=luks");
	if (a->encrypt.wanted && !a->secrets.nr && !a->tool.disks.secrets.nr)
		argp_error(state,
			   "encryption: needs a passphrase: --target-key-file, or --key-...");
	if (a->encrypt.wanted) {
		cow_encrypt_options_finish(&a->encrypt);
		a->target.create.encrypt = &a->encrypt.format;
	}
	return 0;
}

static error_t parse_target(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	struct cow_target_spec *t = &a->target;
	switch (key) {
	case 'O':
		t->disk.format = cow_disk_format_parse("-O", arg, state);
		return 0;
	case 'o':
		a->has_options = true;
		cow_create_options_parse(&t->create, &a->encrypt, arg, state);
		return 0;
	case 'B':
		t->create.backing_file = arg;
		return 0;
	case 'F':
		t->create.backing_format = arg;
		return 0;
	case 'n':
		t->in_place = true;
		return 0;
	case 't':
		t->disk.open.buffered = !cow_disk_cache_parse("-t", arg, &t->unsafe, state);
		return 0;
	case KEY_TARGET_KEY:
		a->secrets.sources[0] = (struct cow_secret_source){ COW_SECRET_FILE, arg };
		a->secrets.nr = 1;
		return 0;
	case 'r':
		a->rate = cow_disk_rate_parse("-r", arg, state);
		return 0;
	case KEY_DATA_ROOT:
		cow_disk_add_data_root(&a->tool.disks, arg, state);
		return 0;
	case KEY_BITMAPS:
		a->copy_bitmaps = true;
		return 0;
	case KEY_SALVAGE:
		a->tool.disks.salvage = true;
		return 0;
	case KEY_MARK:
		a->salvage.mark = true;
		return 0;
	case KEY_SKIP_BROKEN:
		a->bitmaps.skip_broken = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	switch (key) {
	case 'f':
		a->format = cow_disk_format_parse("-f", arg, state);
		return 0;
	case 'l':
		a->snapshot = cow_disk_snapshot_parse(arg);
		return 0;
	case 'c':
		a->compress = true;
		return 0;
	case 'S':
		parse_sparse(a, arg, state);
		return 0;
	case KEY_ZERO:
		a->target_is_zero = true;
		return 0;
	case 'C':
		a->offload = true;
		return 0;
	case 'm':
		parse_threads(a, arg, state);
		return 0;
	case 'W':
		return 0;
	case ARGP_KEY_END:
		return finish(a, state);
	default:
		return parse_target(key, arg, state);
	}
}

/* ---- the disks ---- */

/* What the target is made and opened with, now that the source is known. */
static int plan_target(struct arguments *a, const struct cow_concat *source, struct cow_error *err)
{
	struct cow_target_spec *t = &a->target;
	struct cow_create_options *o = &t->create;
	uint64_t bytes = cow_concat_bytes(source);
	if (o->has_size && o->size_bytes < bytes)
		return cow_error_set(err, -EINVAL,
				     "-o size: %" PRIu64 " is less than the %" PRIu64
				     " bytes of %s%s",
				     o->size_bytes, bytes, a->tool.images[0],
				     a->nr_sources > 1 ? " and what follows it" : "");
	if (!o->has_size)
		o->size_bytes = bytes;
	o->has_size = true;
	size_t nr = 0;
	if (a->secrets.nr)
		a->all[nr++] = a->secrets.loaded[0];
	for (size_t i = 0; i < a->tool.disks.secrets.nr; i++)
		a->all[nr++] = a->tool.disks.secrets.loaded[i];
	o->secret = nr ? a->all[0] : NULL;
	t->disk.path = a->out;
	t->disk.open.secrets = a->all;
	t->disk.open.nr_secrets = nr;
	t->disk.open.compress = a->compress;
	t->disk.open.backing_roots = a->tool.disks.roots;
	t->disk.open.nr_backing_roots = a->tool.disks.nr_roots;
	t->disk.open.data_roots = a->tool.disks.data_roots;
	t->disk.open.nr_data_roots = a->tool.disks.nr_data_roots;
	t->bitmaps = a->copy_bitmaps ? &a->bitmaps : NULL;
	return 0;
}

/* Which part of the source's chain the target's backing file stands for. */
static void find_shared(const struct cow_target *target, struct cow_convert *c)
{
	uint64_t dev, ino;
	if (!cow_disk_backing(target->disk, &dev, &ino, &c->backing_bytes))
		return;
	c->has_backing = true;
	const struct cow_disk *source = c->source->disks[0];
	int depth = cow_disk_find_level(source, dev, ino, &c->reach);
	if (depth < 0) /* the caller says that it holds the same as the source's backing file */
		c->reach = cow_disk_reach(source, 1);
	c->shared_depth = depth < 0 ? 1 : (unsigned)depth;
}

static int say_failure(const struct arguments *a, const struct cow_convert *c, const char *out,
		       int ret, struct cow_error *err)
{
	uint64_t off = c->failed_off;
	const char *image = out;
	if (ret == -ECANCELED)
		return cow_error_set(err, ret, "%s: interrupted", out);
	if (c->failed_source)
		image = a->tool.images[cow_concat_find(c->source, &off)];
	return cow_error_set(err, ret, "%s: cannot %s at offset %" PRIu64 ": %s", image,
			     c->failed_source ? "read" : "write", off, strerror(-ret));
}

/* Also with -U, without which the locks of what is read would say it. */
static int check_apart(const struct arguments *a, const struct cow_disk *source,
		       struct cow_error *err)
{
	struct cow_error ignored = { 0 };
	struct cow_file *file;
	uint64_t dev, ino;
	struct cow_host *host = cow_host_system();
	if (host->ops->open(host, a->out, COW_OPEN_NO_LOCK | COW_OPEN_BUFFERED, &file, &ignored))
		return 0;
	cow_disk_identity(source, &dev, &ino);
	bool same = file->dev == dev && file->ino == ino;
	bool used = cow_disk_uses(source, file->dev, file->ino);
	host->ops->close(file);
	if (same)
		return cow_error_set(err, -EINVAL, "%s: is the image that is read", a->out);
	return used ? cow_error_set(err, -EINVAL,
				    "%s: is in use: it is in the chain of the image that is read",
				    a->out)
		    : 0;
}

/* The target's own file is another one: its data file may be none. */
static int check_data_apart(const struct arguments *a, const struct cow_disk *target,
			    struct cow_error *err)
{
	for (unsigned i = 0; i < a->nr_sources; i++)
		if (cow_disk_writes_to(target, a->sources[i]))
			return cow_error_set(err, -EINVAL,
					     "%s: its data file is in the chain of the image that "
					     "is read",
					     a->out);
	return 0;
}

static int to_file(struct arguments *a, struct cow_convert *c, struct cow_error *err)
{
	struct cow_loop *loop = a->tool.loop;
	struct cow_target target;
	int ret = 0;
	for (unsigned i = 0; i < a->nr_sources && !ret; i++)
		ret = check_apart(a, a->sources[i], err);
	a->bitmaps.source = a->sources[0];
	if (!ret && a->copy_bitmaps)
		ret = cow_bitmap_copy_plan(&a->bitmaps, loop, err);
	if (!ret)
		ret = plan_target(a, c->source, err);
	if (!ret)
		ret = cow_target_open(loop, &a->target, &target, err);
	if (ret)
		return ret;
	ret = check_data_apart(a, target.disk, err);
	if (ret) {
		cow_target_give_up(&target, loop);
		return ret;
	}
	c->target = target.disk;
	c->target_is_zero = target.reads_zero || a->target_is_zero;
	c->nr_threads = target.tight ? 1 : c->nr_threads;
	if (!a->target.in_place)
		find_shared(&target, c);
	ret = cow_convert(c);
	if (!ret)
		return cow_target_finish(&target, loop, err);
	say_failure(a, c, a->out, ret, err);
	cow_target_give_up(&target, loop);
	return ret;
}

static int to_pipe(struct arguments *a, struct cow_convert *c, struct cow_error *err)
{
	if (isatty(STDOUT_FILENO))
		return cow_error_set(err, -EINVAL, "standard output is a terminal");
	signal(SIGPIPE, SIG_IGN);
	int ret = 0;
	if (a->target.disk.format == COW_DISK_QCOW2)
		ret = plan_target(a, c->source, err);
	if (ret)
		return ret;
	ret = a->target.disk.format == COW_DISK_RAW
		      ? cow_convert_stream_raw(c, STDOUT_FILENO)
		      : cow_convert_stream_qcow2(c, &a->target.create, STDOUT_FILENO, err);
	return ret ? say_failure(a, c, "standard output", ret, err) : 0;
}

static int prepare(struct cow_tool *tool, struct cow_error *err)
{
	struct arguments *a = (struct arguments *)tool;
	return cow_secrets_load(&a->secrets, a->out, COW_PROMPT_TWICE, err);
}

static int open_sources(struct arguments *a, struct cow_error *err)
{
	uint64_t bytes = 0;
	int ret = 0;
	a->sources = calloc(a->nr_sources, sizeof(struct cow_disk *));
	if (!a->sources)
		return cow_error_no_memory(err);
	for (unsigned i = 0; i < a->nr_sources && !ret; i++) {
		ret = cow_tool_open(&a->tool, i, a->format, a->snapshot, &a->sources[i], err);
		bytes += ret ? 0 : cow_disk_bytes(a->sources[i]);
		if (bytes > INT64_MAX)
			return cow_error_set(err, -EFBIG,
					     "%s: the images joined have more than 2^63-1 bytes",
					     a->tool.images[i]);
	}
	return ret;
}

static void close_sources(struct arguments *a)
{
	for (unsigned i = 0; a->sources && i < a->nr_sources; i++)
		COW_IGNORE(cow_disk_close(a->sources[i], a->tool.loop, NULL));
	free(a->sources);
}

static int convert(struct cow_tool *tool, struct cow_error *err)
{
	struct arguments *a = (struct arguments *)tool;
	int ret = open_sources(a, err);
	struct cow_rate rate;
	cow_rate_init(&rate, a->rate, tool->cancel);
	const struct cow_concat source = { .disks = a->sources, .nr = a->nr_sources };
	struct cow_convert c = {
		.source = &source,
		.salvage = tool->disks.salvage ? &a->salvage : NULL,
		.rate = a->rate ? &rate : NULL,
		.sparse_bytes = a->sparse_bytes,
		.offload = a->offload,
		.nr_threads = a->nr_threads ? a->nr_threads : cow_walk_threads(),
		.cancel = tool->cancel,
		.progress = tool->progress,
	};
	if (!ret)
		a->disk_bytes = cow_concat_bytes(&source);
	if (!ret)
		ret = strcmp(a->out, "-") ? to_file(a, &c, err) : to_pipe(a, &c, err);
	cow_rate_fini(&rate);
	cow_salvage_finish(&a->salvage);
	cow_bitmap_copy_fini(&a->bitmaps);
	close_sources(a);
	cow_secrets_free(&a->secrets);
	if (ret && !strncmp(err->text, a->out, strlen(a->out)))
		tool->failed_image = a->out;
	return ret;
}

/* ---- what has come of it ---- */

static void print_json(const struct arguments *a, FILE *out)
{
	const struct cow_salvage *s = &a->salvage;
	fprintf(out, "{\n  \"virtual-size\": %" PRIu64 ",\n  \"lost-bytes\": %" PRIu64,
		a->disk_bytes, s->bytes);
	fprintf(out, ",\n  \"lost-all-listed\": %s,\n  \"lost\": [",
		s->too_many ? "false" : "true");
	for (size_t i = 0; i < s->nr; i++)
		fprintf(out, "%s\n    { \"start\": %" PRIu64 ", \"length\": %" PRIu64 " }",
			i ? "," : "", s->ranges[i].off, s->ranges[i].bytes);
	fprintf(out, "%s]\n}\n", s->nr ? "\n  " : "");
}

static void print_lost(const struct arguments *a, FILE *out)
{
	const struct cow_salvage *s = &a->salvage;
	for (size_t i = 0; i < s->nr && !a->tool.common.quiet; i++)
		fprintf(out, "lost: %" PRIu64 " %" PRIu64 "\n", s->ranges[i].off,
			s->ranges[i].bytes);
	fflush(out);
	cow_cmd_fail("%s: %" PRIu64 " bytes of its disk cannot be read%s: %s has %s there",
		     a->tool.images[0], s->bytes, s->too_many ? ", and more than are listed" : "",
		     a->out, s->mark ? "marks" : "zeros");
}

static int tell(const struct cow_tool *tool)
{
	struct arguments *a = (struct arguments *)tool;
	FILE *out = strcmp(a->out, "-") ? stdout : stderr;
	bool lost = a->salvage.nr;
	if (tool->common.json)
		print_json(a, out);
	else if (lost)
		print_lost(a, out);
	return lost ? STATUS_LOST : 0;
}

int cow_cmd_convert(int argc, char **argv)
{
	static const struct cow_tool_verb verb = {
		.options = options,
		.parse = parse_option,
		.values = cow_create_options_docs,
		.args_doc = "IMAGE... TARGET",
		.doc = "Copy the disk of IMAGE, with its backing chain, into a new image TARGET: a "
		       "file, a block device or - for standard output. Several IMAGEs are "
		       "joined, one behind the other.\v"
		       "A file appears under its name when it is complete and durable, or not at "
		       "all; one that is there already is replaced then.",
		.take = COW_ARGS_QUIET | COW_ARGS_OUTPUT | COW_ARGS_SHARE | COW_ARGS_PROGRESS,
		.prepare = prepare,
		.run = convert,
		.tell = tell,
	};
	struct arguments a = { .target.disk.open.buffered = true };
	cow_encrypt_options_init(&a.encrypt);
	cow_salvage_init(&a.salvage);
	cow_tool_parse(&verb, argc, argv, &a.tool);
	int status = cow_tool_run(&a.tool);
	cow_salvage_fini(&a.salvage);
	return status;
}
