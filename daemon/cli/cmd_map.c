/* SPDX-License-Identifier: MIT */
/* cowblk map: where a disk's content lies. Output of `qemu-img map`. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/options/args.h"
#include "daemon/options/disk_options.h"
#include "daemon/options/interrupt.h"
#include "daemon/options/named.h"
#include "daemon/control/record.h"
#include "daemon/control/show.h"
#include "daemon/control/target.h"
#include "engine/tool/disk_map.h"

struct arguments {
	struct cow_disk_options disks;
	struct cow_args common;
	const char *image;
	enum cow_disk_format format;
	uint64_t begin, length;
};

enum { KEY_BEGIN = 's', KEY_LENGTH = 'l' };

static const struct argp_option options[] = {
	{ "format", 'f', "FORMAT", 0, "Format of IMAGE: qcow2 (default) or raw", 0 },
	{ "start-offset", KEY_BEGIN, "OFFSET", 0, "Begin there", 0 },
	{ "max-length", KEY_LENGTH, "SIZE", 0, "Tell of so many bytes at most", 0 },
	{ 0 },
};

static uint64_t parse_bytes(const char *option, const char *text, struct argp_state *state)
{
	unsigned long long bytes = 0;
	if (cow_cmd_parse_size(text, &bytes) || bytes % 512)
		argp_error(state, "%s %s: must be a multiple of 512 bytes", option, text);
	return bytes;
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
	case KEY_BEGIN:
		a->begin = parse_bytes("--start-offset", arg, state);
		return 0;
	case KEY_LENGTH:
		a->length = parse_bytes("--max-length", arg, state);
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num)
			return ARGP_ERR_UNKNOWN;
		a->image = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->image)
			argp_error(state, "IMAGE is missing");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- entries: extents that go on are one ---- */

struct entry {
	uint64_t off;
	struct cow_extent e; /* e.bytes 0: none yet */
};

struct printer {
	const struct arguments *a;
	struct entry last;
	bool any; /* JSON: an entry was printed */
};

static bool goes_on(const struct entry *last, const struct cow_extent *e)
{
	const struct cow_extent *l = &last->e;
	return l->bytes && l->zero == e->zero && l->data == e->data &&
	       l->allocated == e->allocated && l->depth == e->depth && l->mapped == e->mapped &&
	       (!l->mapped || (l->file == e->file && l->host_off + l->bytes == e->host_off));
}

static void print_json(struct printer *p)
{
	static const char *const words[] = { "false", "true" };
	const struct cow_extent *e = &p->last.e;
	printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, "
	       "\"present\": %s, \"zero\": %s, \"data\": %s",
	       p->any ? ",\n" : "", p->last.off, e->bytes, e->depth, words[e->allocated],
	       words[e->zero], words[e->data]);
	if (e->mapped)
		printf(", \"offset\": %" PRIu64, e->host_off);
	putchar('}');
	p->any = true;
}

/* A file beside the image is named as the image is. */
static void print_name(const struct arguments *a, const char *path)
{
	char *top = realpath(a->image, NULL), *clean;
	const char *top_base = top ? strrchr(top, '/') + 1 : NULL;
	const char *slash = strrchr(a->image, '/');
	size_t dir = top ? (size_t)(top_base - top) : 0;
	int given = slash ? (int)(slash - a->image) + 1 : 0;
	bool beside = top && !strncmp(top, path, dir) && a->image[0] != '/';
	char *shown = NULL;
	if (asprintf(&shown, "%.*s%s", beside ? given : 0, a->image, beside ? path + dir : path) <
	    0)
		abort();
	clean = cow_show_clean(shown);
	puts(clean);
	free(clean);
	free(shown);
	free(top);
}

static int print_text(struct printer *p)
{
	const struct cow_extent *e = &p->last.e;
	if (e->data && !e->mapped)
		return -ENOTSUP;
	if (!e->data || e->zero)
		return 0;
	printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64, p->last.off, e->bytes, e->host_off);
	print_name(p->a, e->file->path);
	return 0;
}

static int print_last(struct printer *p)
{
	if (!p->a->common.json)
		return print_text(p);
	print_json(p);
	return 0;
}

static int tell(void *ctx, uint64_t off, const struct cow_extent *e)
{
	struct printer *p = ctx;
	if (goes_on(&p->last, e)) {
		p->last.e.bytes += e->bytes;
		return 0;
	}
	int ret = p->last.e.bytes ? print_last(p) : 0;
	p->last = (struct entry){ .off = off, .e = *e };
	return ret;
}

/* ---- a device ---- */

/* What the daemon has in memory goes to the image; requests go on meanwhile. 0 or the exit status. */
static int flush_device(uint32_t id)
{
	char path[24];
	snprintf(path, sizeof(path), "/dev/ublkb%u", id);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int ret = fd < 0 || fsync(fd) ? -errno : 0;
	if (fd >= 0)
		close(fd);
	return ret ? cow_cmd_fail("%s: cannot flush: %s", path, strerror(-ret)) : 0;
}

/* Its image instead, which the device may be writing to. 0 or the exit status. */
static int take_device(struct arguments *a, uint32_t id)
{
	struct cow_record record;
	if (cow_record_read(id, &record))
		return 1;
	bool live = !record.snapshot && !record.temporary;
	cow_record_fini(&record);
	if (!live)
		return cow_cmd_fail("%s: serves a snapshot or a temporary overlay: only a live "
				    "disk has a map",
				    a->image);
	a->disks.share = true;
	return flush_device(id);
}

/* *path: of the image, to be freed. 0 or the exit status. */
static int find_image(struct arguments *a, char **path)
{
	uint32_t id;
	*path = cow_named_path(a->image);
	if (!*path)
		return 1;
	int status = 0;
	if (strcmp(*path, a->image) != 0 && cow_target_device(a->image, &id))
		status = take_device(a, id);
	a->image = *path;
	return status;
}

/* ---- the command ---- */

static int say_failure(const struct arguments *a, const struct cow_disk_map *m, int ret,
		       struct cow_error *err)
{
	if (ret == -ENOTSUP)
		return cow_error_set(
			err, ret,
			"%s: holds encrypted or compressed clusters, which lie nowhere "
			"as they are: see --output=json",
			a->image);
	return cow_error_set(err, ret, "%s: cannot read the mapping of offset %" PRIu64 ": %s",
			     a->image, m->failed_off, strerror(-ret));
}

static int print_map(const struct arguments *a, struct cow_loop *loop, struct cow_disk *disk,
		     struct cow_error *err)
{
	struct printer p = { .a = a, .last.off = a->begin };
	struct cow_disk_map m = {
		.disk = disk,
		.begin = a->begin,
		.end = cow_disk_bytes(disk),
		.cancel = cow_interrupt_catch(),
		.tell = tell,
		.ctx = &p,
	};
	if (m.begin < m.end && a->length < m.end - m.begin)
		m.end = m.begin + a->length;
	if (a->common.json)
		putchar('[');
	else
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	int ret = cow_disk_map(loop, &m);
	if (!ret)
		ret = print_last(&p);
	if (!ret && a->common.json)
		puts("]");
	return ret ? say_failure(a, &m, ret, err) : 0;
}

static int map(struct arguments *a, struct cow_loop *loop, struct cow_error *err)
{
	struct cow_disk_spec spec = cow_disk_options_spec(&a->disks, a->image, a->format);
	struct cow_disk *disk = NULL;
	int ret = cow_secrets_load(&a->disks.secrets, a->image, false, err);
	if (!ret)
		ret = cow_disk_open(loop, &spec, &disk, err);
	cow_secrets_free(&a->disks.secrets);
	if (!ret)
		ret = print_map(a, loop, disk, err);
	COW_IGNORE(cow_disk_close(disk, loop, NULL));
	return ret;
}

int cow_cmd_map(int argc, char **argv)
{
	static const struct argp_child children[] = { { &cow_disk_argp, 0, NULL, 0 },
						      { &cow_secret_argp, 0, "Passphrase:", 0 },
						      { 0 } };
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "IMAGE|DEVICE",
		.doc = "Show where what the disk of IMAGE holds lies: offset and length on the "
		       "disk, "
		       "offset in a file of the backing chain. In JSON also what reads as zeros.",
		.children = children,
	};
	struct arguments a = { .length = UINT64_MAX };
	struct cow_error err = { 0 };
	struct cow_loop *loop;
	cow_args_parse(&argp, COW_ARGS_OUTPUT | COW_ARGS_SHARE, argc, argv, &a.common, &a);
	a.disks.share = a.common.share;
	char *path;
	int found = find_image(&a, &path);
	if (!found && cow_loop_sync_new(&loop))
		found = cow_cmd_fail("out of memory");
	if (found) {
		free(path);
		return found;
	}
	int ret = map(&a, loop, &err);
	cow_loop_free(loop);
	int status = ret && ret != -ECANCELED ? cow_named_fail(a.image, ret, &err) : !!ret;
	free(path);
	return cow_interrupt_end(status);
}
