/* SPDX-License-Identifier: MIT */
/* cowblk measure: how large would an image become? Options and JSON of `qemu-img measure`. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>

#include "daemon/options/create_options.h"
#include "daemon/options/tool_cmd.h"
#include "daemon/options/values.h"
#include "daemon/control/show.h"
#include "engine/host/system.h"
#include "engine/life/info.h"
#include "engine/tool/measure.h"

struct arguments {
	struct cow_tool tool; /* first */
	const char *snapshot;
	enum cow_disk_format format, target;
	struct cow_create_options create;
	struct cow_encrypt_options encrypt;
	bool has_size;
	uint64_t size_bytes;
	/* what comes of it */
	struct cow_measure measure;
	bool has_bitmaps;
	uint64_t bitmap_bytes;
};

enum { KEY_SIZE = 256 };

static const struct argp_option options[] = {
	{ "format", 'f', "qcow2|raw", 0, "Format of IMAGE: qcow2 (default) or raw", 0 },
	{ "target-format", 'O', "qcow2|raw", 0, "Format to measure for: qcow2 (default) or raw",
	  0 },
	{ "option", 'o', "NAME=VALUE[,...]", 0, "How it would be made: see create; help lists them",
	  0 },
	{ "size", KEY_SIZE, "SIZE", 0, "An empty disk of SIZE bytes, instead of IMAGE", 0 },
	{ "snapshot", 'l', "SNAPSHOT", 0, "An internal snapshot of IMAGE, by its id or name", 0 },
	{ 0 },
};

static error_t parse_size(struct arguments *a, const char *arg, struct argp_state *state)
{
	unsigned long long bytes;
	if (cow_cmd_parse_size(arg, &bytes))
		argp_error(state, "--size %s: must be a number with an optional k, M, G, T, P or E",
			   arg);
	a->size_bytes = bytes;
	a->has_size = true;
	return 0;
}

static error_t finish(struct arguments *a, struct argp_state *state)
{
	const char *image = a->tool.images[0];
	if (a->has_size == (image != NULL))
		argp_error(state, "%s",
			   image ? "IMAGE and --size: only one of them can be given"
				 : "IMAGE or --size is missing");
	if (a->snapshot && (!image || a->format == COW_DISK_RAW))
		argp_error(state, "-l: needs a qcow2 image");
	if (a->encrypt.wanted) {
		cow_encrypt_options_finish(&a->encrypt);
		a->create.encrypt = &a->encrypt.format;
	}
	if (a->has_size)
		a->create.size_bytes = a->size_bytes;
	return 0;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	switch (key) {
	case 'f':
		a->format = cow_disk_format_parse("-f", arg, state);
		return 0;
	case 'O':
		a->target = cow_disk_format_parse("-O", arg, state);
		return 0;
	case 'o':
		cow_create_options_parse(&a->create, &a->encrypt, arg, state);
		return 0;
	case KEY_SIZE:
		return parse_size(a, arg, state);
	case 'l':
		a->snapshot = cow_disk_snapshot_parse(arg);
		return 0;
	case ARGP_KEY_END:
		return finish(a, state);
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- bitmaps, which a conversion may take along ---- */

static uint64_t round_up(uint64_t n, uint64_t unit)
{
	return (n + unit - 1) / unit * unit;
}

static uint64_t one_bitmap(const struct cow_bitmap *b, uint64_t disk_bytes, uint64_t cluster)
{
	uint64_t bits = round_up(disk_bytes, 1ull << b->granularity_bits) >> b->granularity_bits;
	uint64_t clusters = round_up((bits + 7) / 8, cluster) / cluster;
	return clusters * cluster + round_up(clusters * 8, cluster);
}

static int measure_bitmaps(struct arguments *a, struct cow_error *err)
{
	uint64_t cluster = a->create.cluster_bytes ? a->create.cluster_bytes : 65536, names = 0;
	struct cow_info info;
	int ret = cow_info_load(cow_host_system(), a->tool.loop, a->tool.images[0], &info, err);
	if (ret)
		return ret;
	a->has_bitmaps = info.header.version >= 3;
	for (uint32_t i = 0; info.bitmaps && i < info.ext.nr_bitmaps; i++) {
		const struct cow_bitmap *b = &info.bitmaps[i];
		a->bitmap_bytes += one_bitmap(b, info.header.size_bytes, cluster);
		names += cow_bitmap_entry_bytes(b);
	}
	a->bitmap_bytes += round_up(names, cluster);
	cow_info_fini(&info);
	return 0;
}

/* ---- the command ---- */

static int tell(const struct cow_tool *tool)
{
	const struct arguments *a = (const struct arguments *)tool;
	const struct cow_measure *m = &a->measure;
	if (!tool->common.json) {
		printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n",
		       m->required, m->fully_allocated);
		if (a->has_bitmaps)
			printf("bitmaps size: %" PRIu64 "\n", a->bitmap_bytes);
		return 0;
	}
	struct json_object *o = json_object_new_object();
	if (a->has_bitmaps)
		cow_show_u64(o, "bitmaps", a->bitmap_bytes);
	cow_show_u64(o, "required", m->required);
	cow_show_u64(o, "fully-allocated", m->fully_allocated);
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY));
	json_object_put(o);
	return 0;
}

static int measure(struct cow_tool *tool, struct cow_error *err)
{
	struct arguments *a = (struct arguments *)tool;
	struct cow_measure *m = &a->measure;
	bool image = tool->images[0];
	bool bitmaps = image && a->target == COW_DISK_QCOW2 && a->format == COW_DISK_QCOW2 &&
		       a->create.version != 2;
	*m = (struct cow_measure){ .format = a->target,
				   .create = &a->create,
				   .cancel = tool->cancel,
				   .progress = tool->progress };
	int ret = image ? cow_tool_open(tool, 0, a->format, a->snapshot, &m->disk, err) : 0;
	cow_secrets_free(&tool->disks.secrets);
	if (!ret)
		ret = cow_measure(m, err);
	if (!ret && bitmaps)
		ret = measure_bitmaps(a, err);
	COW_IGNORE(cow_disk_close(m->disk, tool->loop, NULL));
	return ret;
}

int cow_cmd_measure(int argc, char **argv)
{
	static const struct cow_tool_verb verb = {
		.options = options,
		.parse = parse_option,
		.values = cow_create_options_docs,
		.args_doc = "IMAGE\n--size SIZE",
		.doc = "Say how large a file an image with the content of IMAGE would take, or one "
		       "with an empty disk of SIZE bytes. It is never too little.",
		.take = COW_ARGS_QUIET | COW_ARGS_OUTPUT | COW_ARGS_SHARE | COW_ARGS_PROGRESS,
		.max_images = 1,
		.run = measure,
		.tell = tell,
	};
	struct arguments a = { 0 };
	cow_encrypt_options_init(&a.encrypt);
	cow_tool_parse(&verb, argc, argv, &a.tool);
	return cow_tool_run(&a.tool);
}
