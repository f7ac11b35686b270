/* SPDX-License-Identifier: MIT */
/* cowblk measure: how large would an image become? Options and JSON of `qemu-img measure`. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "daemon/options/args.h"
#include "daemon/options/create_options.h"
#include "daemon/options/disk_options.h"
#include "daemon/options/interrupt.h"
#include "daemon/options/named.h"
#include "daemon/options/values.h"
#include "daemon/control/show.h"
#include "engine/crypt/secret.h"
#include "engine/host/system.h"
#include "engine/life/info.h"
#include "engine/tool/measure.h"

struct arguments {
	struct cow_disk_options disks;
	struct cow_args common;
	const char *image, *snapshot;
	enum cow_disk_format format, target;
	struct cow_create_options create;
	struct cow_encrypt_options encrypt;
	bool has_size;
	uint64_t size_bytes;
};

enum { KEY_SIZE = 256 };

static const struct argp_option options[] = {
	{ "format", 'f', "FORMAT", 0, "Format of IMAGE: qcow2 (default) or raw", 0 },
	{ "target-format", 'O', "FORMAT", 0, "Format to measure for: qcow2 (default) or raw", 0 },
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
	if (a->has_size == (a->image != NULL))
		argp_error(state, "%s",
			   a->image ? "IMAGE and --size: only one of them can be given"
				    : "IMAGE or --size is missing");
	if (a->snapshot && (!a->image || a->format == COW_DISK_RAW))
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
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->disks;
		state->child_inputs[1] = &a->disks.secrets;
		return 0;
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
		a->snapshot = cow_snapshot_option(arg);
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num)
			return ARGP_ERR_UNKNOWN;
		a->image = arg;
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

static int measure_bitmaps(struct arguments *a, struct cow_loop *loop, uint64_t *bytes, bool *known,
			   struct cow_error *err)
{
	uint64_t cluster = a->create.cluster_bytes ? a->create.cluster_bytes : 65536, names = 0;
	struct cow_info info;
	int ret = cow_info_load(cow_host_system(), loop, a->image, &info, err);
	if (ret)
		return ret;
	*bytes = 0;
	*known = info.header.version >= 3;
	for (uint32_t i = 0; info.bitmaps && i < info.ext.nr_bitmaps; i++) {
		const struct cow_bitmap *b = &info.bitmaps[i];
		if (b->flags & COW_BITMAP_IN_USE)
			continue;
		*bytes += one_bitmap(b, info.header.size_bytes, cluster);
		names += cow_bitmap_entry_bytes(b);
	}
	*bytes += round_up(names, cluster);
	cow_info_fini(&info);
	return 0;
}

/* ---- the command ---- */

static void print(const struct arguments *a, const struct cow_measure *m, const uint64_t *bitmaps)
{
	if (!a->common.json) {
		printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n",
		       m->required, m->fully_allocated);
		if (bitmaps)
			printf("bitmaps size: %" PRIu64 "\n", *bitmaps);
		return;
	}
	struct json_object *o = json_object_new_object();
	if (bitmaps)
		cow_show_u64(o, "bitmaps", *bitmaps);
	cow_show_u64(o, "required", m->required);
	cow_show_u64(o, "fully-allocated", m->fully_allocated);
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY));
	json_object_put(o);
}

static int open_image(struct arguments *a, struct cow_loop *loop, struct cow_disk **disk,
		      struct cow_error *err)
{
	struct cow_disk_spec spec = cow_disk_options_spec(&a->disks, a->image, a->format);
	int ret = cow_secrets_load(&a->disks.secrets, a->image, false, err);
	spec.open.snapshot = a->snapshot;
	if (!ret)
		ret = cow_disk_open(loop, &spec, disk, err);
	cow_secrets_free(&a->disks.secrets);
	return ret;
}

static int measure(struct arguments *a, struct cow_loop *loop, struct cow_error *err)
{
	struct cow_measure m = { .format = a->target, .create = &a->create };
	uint64_t bitmaps = 0;
	bool has_bitmaps = a->target == COW_DISK_QCOW2 && a->image && a->format == COW_DISK_QCOW2 &&
			   a->create.version != 2;
	int ret = a->image ? open_image(a, loop, &m.disk, err) : 0;
	m.cancel = cow_interrupt_catch();
	m.progress = cow_progress_to_terminal(a->common.progress, a->common.quiet);
	if (!ret)
		ret = cow_measure(&m, err);
	cow_progress_finish();
	if (!ret && has_bitmaps)
		ret = measure_bitmaps(a, loop, &bitmaps, &has_bitmaps, err);
	COW_IGNORE(cow_disk_close(m.disk, loop, NULL));
	if (!ret)
		print(a, &m, has_bitmaps ? &bitmaps : NULL);
	return ret;
}

int cow_cmd_measure(int argc, char **argv)
{
	static const struct argp_child children[] = { { &cow_disk_argp, 0, NULL, 0 },
						      { &cow_secret_argp, 0, "Passphrase:", 0 },
						      { 0 } };
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "IMAGE\n--size SIZE",
		.doc = "Say how large a file an image with the content of IMAGE would take, or one "
		       "with an empty disk of SIZE bytes. It is never too little.",
		.children = children,
	};
	struct arguments a = { 0 };
	struct cow_error err = { 0 };
	struct cow_loop *loop;
	cow_encrypt_options_init(&a.encrypt);
	cow_args_parse(&argp, COW_ARGS_QUIET | COW_ARGS_OUTPUT | COW_ARGS_SHARE | COW_ARGS_PROGRESS,
		       argc, argv, &a.common, &a);
	a.disks.share = a.common.share;
	if (cow_loop_sync_new(&loop))
		return cow_cmd_fail("out of memory");
	int ret = measure(&a, loop, &err);
	cow_loop_free(loop);
	int status = ret ? cow_named_fail(a.image ? a.image : "measure", ret, &err) : 0;
	return cow_interrupt_end(status);
}
