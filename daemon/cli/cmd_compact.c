/* SPDX-License-Identifier: MIT */
/* cowblk compact: give the free space of a closed image back, in place. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>

#include "daemon/control/show.h"
#include "daemon/control/target.h"
#include "daemon/options/tool_cmd.h"
#include "engine/edit/compact.h"
#include "engine/host/system.h"
#include "engine/tool/each.h"
#include "engine/tool/rate.h"
#include "engine/tool/walk.h"

struct arguments {
	struct cow_tool tool; /* first */
	struct cow_compact_options compact;
	uint64_t rate;
	/* while it runs */
	struct cow_rate limit;
	uint64_t done_bytes, total_bytes;
	/* what comes of it */
	struct cow_compact_result result;
	uint64_t length[2], stored[2]; /* of the file, before and after */
	bool has_stored;
};

static const struct argp_option options[] = {
	{ "zeroes", 'z', NULL, 0, "Data that holds only zeros takes no space any more", 0 },
	{ "compress", 'c', NULL, 0,
	  "Compress data where that makes it shorter, as the image was created for (zlib or zstd)",
	  0 },
	{ "rate-limit", 'r', "RATE", 0, "Move so many bytes a second at most", 0 },
	{ 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	switch (key) {
	case 'z':
		a->compact.zeroes = true;
		return 0;
	case 'c':
		a->compact.compress = true;
		return 0;
	case 'r':
		a->rate = cow_disk_rate_parse("-r", arg, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- running ---- */

static int before(void *ctx, struct cow_loop *loop, uint64_t bytes, uint64_t total_bytes)
{
	struct arguments *a = ctx;
	if (atomic_load(a->tool.cancel))
		return -ECANCELED;
	if (total_bytes != a->total_bytes) /* looked for zeros, and moves now */
		a->done_bytes = 0;
	a->total_bytes = total_bytes;
	a->done_bytes += bytes;
	if (a->tool.progress.show && a->done_bytes < total_bytes)
		a->tool.progress.show(a->tool.progress.ctx, a->done_bytes, total_bytes);
	return cow_rate_wait(&a->limit, bytes, loop);
}

static void on_all_cpus(void *ctx, unsigned nr, void (*one)(void *arg, unsigned i, unsigned worker),
			void *arg)
{
	const struct arguments *a = ctx;
	cow_each(nr, a->compact.nr_workers, one, arg);
}

static void note_size(struct arguments *a, struct cow_file *file, unsigned i)
{
	const struct cow_host_ops *ops = file->host->ops;
	a->length[i] = file->size_bytes;
	a->has_stored = ops->stored && ops->stored(file, &a->stored[i]);
}

static int compact(struct cow_tool *tool, struct cow_error *err)
{
	struct arguments *a = (struct arguments *)tool;
	struct cow_host *host = cow_host_system();
	struct cow_file *file;
	uint32_t id;
	if (cow_target_image(tool->images[0], &id, 1) > 0)
		return cow_error_set(err, -EBUSY,
				     "%s: is attached as /dev/ublkb%u: detach it first",
				     tool->images[0], id);
	int ret = host->ops->open(host, tool->images[0], COW_OPEN_WRITE | COW_OPEN_BUFFERED, &file,
				  err);
	if (ret)
		return ret;
	cow_rate_init(&a->limit, a->rate, tool->cancel);
	a->compact.before = before;
	a->compact.each = on_all_cpus;
	a->compact.nr_workers = cow_walk_threads();
	a->compact.ctx = a;
	note_size(a, file, 0);
	ret = cow_compact(tool->loop, file, &a->compact, &a->result, err);
	if (ret)
		cow_error_prefix(err, "%s", tool->images[0]);
	else
		note_size(a, file, 1);
	cow_rate_fini(&a->limit);
	host->ops->close(file);
	return ret;
}

/* ---- output ---- */

static void put(struct json_object *o, const char *key, uint64_t value)
{
	json_object_object_add(o, key, json_object_new_uint64(value));
}

static void print_json(const struct arguments *a)
{
	struct json_object *o = json_object_new_object();
	cow_show_string(o, "filename", a->tool.images[0]);
	json_object_object_add(o, "format", json_object_new_string("qcow2"));
	put(o, "length-before", a->length[0]);
	put(o, "length-after", a->length[1]);
	if (a->has_stored) {
		put(o, "stored-before", a->stored[0]);
		put(o, "stored-after", a->stored[1]);
	}
	put(o, "image-end-before", a->result.bytes_before);
	put(o, "image-end-after", a->result.bytes_after);
	put(o, "moved", a->result.moved_bytes);
	put(o, "compressed", a->result.compressed_bytes);
	put(o, "zeroes", a->result.zeroes_bytes);
	put(o, "left", a->result.left_bytes);
	if (a->result.left_for)
		cow_show_string(o, "left-for", a->result.left_for);
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
						       JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}

static void print_change(const char *what, const uint64_t bytes[2])
{
	char was[32], is[32];
	cow_show_bytes(bytes[0], was);
	cow_show_bytes(bytes[1], is);
	printf("%s: %s, was %s\n", what, is, was);
}

static int tell(const struct cow_tool *tool)
{
	const struct arguments *a = (const struct arguments *)tool;
	char left[32];
	if (tool->common.json) {
		print_json(a);
		return 0;
	}
	if (tool->common.quiet)
		return 0;
	print_change("file length", a->length);
	if (a->has_stored)
		print_change("stored", a->stored);
	cow_show_bytes(a->result.zeroes_bytes, left);
	if (a->compact.zeroes)
		printf("zeros given up: %s\n", left);
	cow_show_bytes(a->result.compressed_bytes, left);
	if (a->compact.compress)
		printf("compressed: %s\n", left);
	cow_show_bytes(a->result.left_bytes, left);
	if (a->result.left_for)
		printf("could be shorter by %s: %s has to stay where it is\n", left,
		       a->result.left_for);
	return 0;
}

int cow_cmd_compact(int argc, char **argv)
{
	static const struct cow_tool_verb verb = {
		.options = options,
		.parse = parse_option,
		.args_doc = "IMAGE",
		.doc = "Give the free space of IMAGE, which is not attached, back to the host: "
		       "what "
		       "lies at the end of the file moves into free clusters, the file is cut, and "
		       "what is free then becomes holes.\v"
		       "It takes room for one step, some 256 MiB, and none for a second copy. "
		       "Whatever interrupts it, IMAGE shows the same; run again, it goes on.",
		.take = COW_ARGS_QUIET | COW_ARGS_FORMAT | COW_ARGS_PROGRESS | COW_ARGS_OUTPUT,
		.min_images = 1,
		.max_images = 1,
		.run = compact,
		.tell = tell,
	};
	struct arguments a = { 0 };
	cow_tool_parse(&verb, argc, argv, &a.tool);
	return cow_tool_run(&a.tool);
}
