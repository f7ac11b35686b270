/* SPDX-License-Identifier: MIT */
#include "daemon/options/disk_options.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/options/cmd.h"

enum { KEY_ROOT = 0x400, KEY_IMAGE_OPTS, KEY_OBJECT, KEY_TARGET_IMAGE_OPTS };

static const struct argp_option options[] = {
	{ "backing-root", KEY_ROOT, "DIR", 0,
	  "Files that images name may lie below DIR (may be repeated)", 0 },
	{ "source-cache", 'T', COW_CACHE_MODES, 0,
	  "none, directsync: read past the page cache; the others: through it (default)", 0 },
	{ "image-opts", KEY_IMAGE_OPTS, NULL, OPTION_HIDDEN, NULL, 0 },
	{ "target-image-opts", KEY_TARGET_IMAGE_OPTS, NULL, OPTION_HIDDEN, NULL, 0 },
	{ "object", KEY_OBJECT, "OBJECT", OPTION_HIDDEN, NULL, 0 },
	{ 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct cow_disk_options *o = state->input;
	bool unsafe;
	switch (key) {
	case KEY_ROOT:
		if (o->nr_roots == COW_MAX_ROOTS)
			argp_error(state, "--backing-root: more than %d", COW_MAX_ROOTS);
		o->roots[o->nr_roots++] = arg;
		return 0;
	case 'T':
		o->direct = cow_disk_cache_parse("-T", arg, &unsafe, state);
		return 0;
	case KEY_IMAGE_OPTS:
	case KEY_TARGET_IMAGE_OPTS:
		argp_error(state, "--image-opts of qemu-img: not supported: name the file, and its "
				  "format with -f");
		return 0;
	case KEY_OBJECT:
		argp_error(state, "--object of qemu-img: not supported: name a passphrase with "
				  "--key-file");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

void cow_disk_add_data_root(struct cow_disk_options *o, const char *arg, struct argp_state *state)
{
	if (o->nr_data_roots == COW_MAX_ROOTS)
		argp_error(state, "--data-root: more than %d", COW_MAX_ROOTS);
	o->data_roots[o->nr_data_roots++] = arg;
}

const struct argp cow_disk_argp = { .options = options, .parser = parse_option };

enum cow_disk_format cow_disk_format_parse(const char *option, const char *text,
					   struct argp_state *state)
{
	if (strcmp(text, "qcow2") && strcmp(text, "raw"))
		argp_error(state, "%s %s: only qcow2 and raw are handled", option, text);
	return !strcmp(text, "raw") ? COW_DISK_RAW : COW_DISK_QCOW2;
}

bool cow_disk_cache_parse(const char *option, const char *text, bool *unsafe,
			  struct argp_state *state)
{
	static const struct {
		const char *name;
		bool direct;
	} modes[] = {
		{ "none", true },	   { "off", true },	   { "directsync", true },
		{ "writethrough", false }, { "writeback", false }, { "unsafe", false },
	};
	*unsafe = !strcmp(text, "unsafe");
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (!strcmp(modes[i].name, text))
			return modes[i].direct;
	argp_error(state, "%s %s: must be one of " COW_CACHE_MODES, option, text);
	return false;
}

uint64_t cow_disk_rate_parse(const char *option, const char *text, struct argp_state *state)
{
	unsigned long long bytes;
	if (cow_cmd_parse_size(text, &bytes) || bytes > INT64_MAX)
		argp_error(state, "%s %s: not a number of bytes a second, as 50M", option, text);
	return bytes;
}

const char *cow_disk_snapshot_parse(const char *text)
{
	static const char *const prefixes[] = { "snapshot.id=", "snapshot.name=" };
	for (size_t i = 0; i < 2; i++)
		if (!strncmp(text, prefixes[i], strlen(prefixes[i])))
			return text + strlen(prefixes[i]);
	return text;
}

struct cow_disk_spec cow_disk_options_spec(const struct cow_disk_options *o, const char *path,
					   enum cow_disk_format format)
{
	return (struct cow_disk_spec){
		.path = path,
		.format = format,
		.open = {
			.no_lock = o->share,
			.salvage = o->salvage,
			.buffered = !o->direct,
			.secrets = o->secrets.loaded,
			.nr_secrets = o->secrets.nr,
			.backing_roots = o->roots,
			.nr_backing_roots = o->nr_roots,
			.data_roots = o->data_roots,
			.nr_data_roots = o->nr_data_roots,
		},
	};
}
