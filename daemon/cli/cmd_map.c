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

#include "daemon/options/named.h"
#include "daemon/options/tool_cmd.h"
#include "daemon/control/record.h"
#include "daemon/control/show.h"
#include "daemon/control/target.h"
#include "engine/tool/disk_map.h"

struct arguments {
	struct cow_tool tool; /* first */
	enum cow_disk_format format;
	uint64_t begin, length;
};

enum { KEY_BEGIN = 's', KEY_LENGTH = 'l' };

static const struct argp_option options[] = {
	{ "format", 'f', "qcow2|raw", 0, "Format of IMAGE: qcow2 (default) or raw", 0 },
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
	case 'f':
		a->format = cow_disk_format_parse("-f", arg, state);
		return 0;
	case KEY_BEGIN:
		a->begin = parse_bytes("--start-offset", arg, state);
		return 0;
	case KEY_LENGTH:
		a->length = parse_bytes("--max-length", arg, state);
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
	char *top = realpath(a->tool.images[0], NULL), *clean;
	const char *top_base = top ? strrchr(top, '/') + 1 : NULL;
	const char *slash = strrchr(a->tool.images[0], '/');
	size_t dir = top ? (size_t)(top_base - top) : 0;
	int given = slash ? (int)(slash - a->tool.images[0]) + 1 : 0;
	bool beside = top && !strncmp(top, path, dir) && a->tool.images[0][0] != '/';
	char *shown = NULL;
	if (asprintf(&shown, "%.*s%s", beside ? given : 0, a->tool.images[0],
		     beside ? path + dir : path) < 0)
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
	if (!p->a->tool.common.json)
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
				    a->tool.images[0]);
	a->tool.disks.share = true;
	return flush_device(id);
}

/* *path: of the image, to be freed. 0 or the exit status. */
static int find_image(struct arguments *a, char **path)
{
	uint32_t id;
	*path = cow_named_path(a->tool.images[0]);
	if (!*path)
		return 1;
	int status = 0;
	if (strcmp(*path, a->tool.images[0]) != 0 && cow_target_device(a->tool.images[0], &id))
		status = take_device(a, id);
	a->tool.images[0] = *path;
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
			a->tool.images[0]);
	return cow_error_set(err, ret, "%s: cannot read the mapping of offset %" PRIu64 ": %s",
			     a->tool.images[0], m->failed_off, strerror(-ret));
}

static int print_map(const struct arguments *a, struct cow_disk *disk, struct cow_error *err)
{
	struct printer p = { .a = a, .last.off = a->begin };
	struct cow_disk_map m = {
		.disk = disk,
		.begin = a->begin,
		.end = cow_disk_bytes(disk),
		.cancel = a->tool.cancel,
		.tell = tell,
		.ctx = &p,
	};
	if (m.begin < m.end && a->length < m.end - m.begin)
		m.end = m.begin + a->length;
	if (a->tool.common.json)
		putchar('[');
	else
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	int ret = cow_disk_map(a->tool.loop, &m);
	if (!ret)
		ret = print_last(&p);
	if (!ret && a->tool.common.json)
		puts("]");
	return ret ? say_failure(a, &m, ret, err) : 0;
}

static int map(struct cow_tool *tool, struct cow_error *err)
{
	struct arguments *a = (struct arguments *)tool;
	struct cow_disk *disk = NULL;
	int ret = cow_tool_open(tool, 0, a->format, NULL, &disk, err);
	cow_secrets_free(&tool->disks.secrets);
	if (!ret)
		ret = print_map(a, disk, err);
	COW_IGNORE(cow_disk_close(disk, tool->loop, NULL));
	return ret;
}

int cow_cmd_map(int argc, char **argv)
{
	static const struct cow_tool_verb verb = {
		.options = options,
		.parse = parse_option,
		.args_doc = "IMAGE|DEVICE",
		.doc = "Show where what the disk of IMAGE holds lies: offset and length on the "
		       "disk, "
		       "offset in a file of the backing chain. In JSON also what reads as zeros.",
		.take = COW_ARGS_OUTPUT | COW_ARGS_SHARE,
		.min_images = 1,
		.max_images = 1,
		.run = map,
	};
	struct arguments a = { .length = UINT64_MAX };
	cow_tool_parse(&verb, argc, argv, &a.tool);
	char *path;
	int status = find_image(&a, &path);
	if (!status)
		status = cow_tool_run(&a.tool);
	free(path);
	return status;
}
