/* SPDX-License-Identifier: MIT */
/* cowblk create: make a new qcow2 image. */
#include "daemon/cli/cmd.h"

#include <argp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/cli/args.h"
#include "daemon/cli/encrypt_options.h"
#include "daemon/cli/named.h"
#include "daemon/cli/passphrase.h"
#include "daemon/cli/values.h"
#include "engine/create/create.h"
#include "engine/host/system.h"
#include "uapi/qcow2.h"

struct arguments {
	struct cow_create_options options;
	struct cow_encrypt_options encrypt;
	struct cow_secrets secrets;
	const char *image;
};

enum { KEY_FORCE = 256 };

static const struct argp_option options[] = {
	{ "backing", 'b', "BASE", 0, "Backing file, relative to the new image's directory", 0 },
	{ "backing-format", 'F', "FORMAT", 0, "Format of the backing file: qcow2 or raw", 0 },
	{ "unsafe", 'u', NULL, 0, "Do not look at the backing file (SIZE must be given)", 0 },
	{ "option", 'o', "NAME=VALUE[,...]", 0,
	  "With qemu-img's names: cluster_size= (64K), refcount_bits= (16), compat=0.10|1.1, "
	  "lazy_refcounts=on|off, "
	  "extended_l2=on|off, compression_type=zlib|zstd, preallocation=off|metadata|falloc|full, "
	  "data_file=FILE, "
	  "data_file_raw=on|off, size=, backing_file=, backing_fmt=. A comma in a value is written "
	  "twice; help lists them",
	  0 },
	{ "encrypt", 'e', "luks", 0,
	  "Encrypt the image (the same as -o encrypt.format=luks); name a passphrase. -o: "
	  "encrypt.cipher-alg=aes-128|aes-256, "
	  "encrypt.cipher-mode=xts|cbc, encrypt.ivgen-alg=plain64|plain|essiv, encrypt.hash-alg= "
	  "(sha256), "
	  "encrypt.iter-time=MILLISECONDS (1000)",
	  0 },
	{ "mode", 'm', "MODE", 0,
	  "Permissions of the files, octal, whatever the umask (default: 0600 less the umask)", 0 },
	{ "force", KEY_FORCE, NULL, 0, "Overwrite existing files: IMAGE's and the data file's", 0 },
	{ 0 },
};

/* ---- values of -o ---- */

static const struct cow_value_doc docs[] = {
	{ "size", "a size, like 20G" },
	{ "cluster_size", "a power of two from 512 to 2M (default 64K)" },
	{ "refcount_bits", "1, 2, 4, 8, 16, 32 or 64 (default 16)" },
	{ "compat", "0.10 (version 2) or 1.1 (version 3, the default)" },
	{ "lazy_refcounts", "on or off (default)" },
	{ "extended_l2", "on or off (default)" },
	{ "compression_type", "zlib (default) or zstd" },
	{ "preallocation", "off (default), metadata, falloc or full" },
	{ "backing_file", "a file, relative to the new image's directory" },
	{ "backing_fmt", "qcow2 or raw" },
	{ "data_file", "a file, relative to the new image's directory" },
	{ "data_file_raw", "on or off (default)" },
	{ "encrypt.format", "luks" },
	{ "encrypt.cipher-alg", "aes-256 (default) or aes-128" },
	{ "encrypt.cipher-mode", "xts (default) or cbc" },
	{ "encrypt.ivgen-alg", "plain64 (default), plain or essiv" },
	{ "encrypt.ivgen-hash-alg", "sha256" },
	{ "encrypt.hash-alg", "a digest, like sha256 (default)" },
	{ "encrypt.iter-time", "milliseconds, 1 to 60000 (default 1000)" },
	{ 0 },
};

static bool parse_u32(const char *value, uint32_t *out)
{
	unsigned long long bytes;
	if (cow_cmd_parse_size(value, &bytes) || bytes == 0 || bytes > UINT32_MAX)
		return false;
	*out = (uint32_t)bytes;
	return true;
}

static bool parse_cluster_size(struct cow_create_options *o, const char *value)
{
	return parse_u32(value, &o->cluster_bytes);
}

static bool parse_refcount_bits(struct cow_create_options *o, const char *value)
{
	return parse_u32(value, &o->refcount_bits);
}

static bool parse_compat(struct cow_create_options *o, const char *value)
{
	return cow_value_compat(value, &o->version);
}

static bool parse_lazy_refcounts(struct cow_create_options *o, const char *value)
{
	return cow_value_switch(value, &o->lazy_refcounts);
}

static bool parse_extended_l2(struct cow_create_options *o, const char *value)
{
	return cow_value_switch(value, &o->extended_l2);
}

static bool parse_compression_type(struct cow_create_options *o, const char *value)
{
	o->compression_type =
		!strcmp(value, "zstd") ? QCOW2_COMPRESSION_ZSTD : QCOW2_COMPRESSION_ZLIB;
	return o->compression_type == QCOW2_COMPRESSION_ZSTD || !strcmp(value, "zlib");
}

static bool parse_data_file(struct cow_create_options *o, const char *value)
{
	o->data_file = value;
	return true;
}

static bool parse_data_file_raw(struct cow_create_options *o, const char *value)
{
	return cow_value_switch(value, &o->data_file_raw);
}

static bool parse_size(struct cow_create_options *o, const char *value)
{
	unsigned long long bytes;
	if (cow_cmd_parse_size(value, &bytes))
		return false;
	o->size_bytes = bytes;
	o->has_size = true;
	return true;
}

static bool parse_backing_file(struct cow_create_options *o, const char *value)
{
	o->backing_file = value;
	return true;
}

static bool parse_backing_fmt(struct cow_create_options *o, const char *value)
{
	o->backing_format = value;
	return true;
}

static bool parse_preallocation(struct cow_create_options *o, const char *value)
{
	static const char *const names[] = {
		[COW_PREALLOC_OFF] = "off",
		[COW_PREALLOC_METADATA] = "metadata",
		[COW_PREALLOC_FALLOC] = "falloc",
		[COW_PREALLOC_FULL] = "full",
	};
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(value, names[i])) {
			o->preallocation = (enum cow_preallocation)i;
			return true;
		}
	}
	return false;
}

static const struct {
	const char *name;
	bool (*parse)(struct cow_create_options *o, const char *value);
} values[] = {
	{ "cluster_size", parse_cluster_size },
	{ "refcount_bits", parse_refcount_bits },
	{ "compat", parse_compat },
	{ "lazy_refcounts", parse_lazy_refcounts },
	{ "preallocation", parse_preallocation },
	{ "extended_l2", parse_extended_l2 },
	{ "compression_type", parse_compression_type },
	{ "data_file", parse_data_file },
	{ "data_file_raw", parse_data_file_raw },
	{ "size", parse_size },
	{ "backing_file", parse_backing_file },
	{ "backing_fmt", parse_backing_fmt },
};

static void parse_encryption(const char *word, const char *value, struct argp_state *state)
{
	struct arguments *a = state->input;
	bool known;
	if (cow_encrypt_option_parse(&a->encrypt, word + strlen("encrypt."), value, &known))
		return;
	if (known)
		cow_values_invalid(docs, word, value, state);
	cow_values_unknown(docs, word, state);
}

static void parse_value(struct cow_create_options *o, const char *name, const char *value,
			struct argp_state *state)
{
	if (!strncmp(name, "encrypt.", strlen("encrypt."))) {
		parse_encryption(name, value, state);
		return;
	}
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		if (strcmp(values[i].name, name))
			continue;
		if (!values[i].parse(o, value))
			cow_values_invalid(docs, name, value, state);
		return;
	}
	cow_values_unknown(docs, name, state);
}

/* ---- command line ---- */

static void parse_values(struct cow_create_options *o, char *list, struct argp_state *state)
{
	char *name, *value;
	while ((name = cow_values_next(&list, &value)) != NULL) {
		if (cow_values_is_help(name, value)) {
			cow_values_help(docs);
			exit(0);
		}
		if (!value)
			argp_error(state, "-o %s: must be NAME=VALUE", name);
		else
			parse_value(o, name, value, state);
	}
}

static error_t parse_argument(struct arguments *a, const char *arg, struct argp_state *state)
{
	if (state->arg_num == 0) {
		a->image = arg;
		return 0;
	}
	if (state->arg_num > 1)
		return ARGP_ERR_UNKNOWN;
	if (!parse_size(&a->options, arg))
		argp_error(state, "size %s: must be a number with an optional k, M, G, T, P or E",
			   arg);
	return 0;
}

static error_t finish_arguments(struct arguments *a, struct argp_state *state)
{
	if (!a->image)
		argp_error(state, "IMAGE is missing");
	if (a->options.unsafe && !a->options.backing_file)
		argp_error(state, "--unsafe: needs a backing file");
	if (a->options.backing_format && !a->options.backing_file)
		argp_error(state, "--backing-format: needs a backing file");
	if (!a->encrypt.wanted && a->encrypt.modified)
		argp_error(state, "-o encrypt....: needs --encrypt luks");
	if (!a->encrypt.wanted && a->secrets.nr)
		argp_error(state, "--key-...: needs --encrypt luks");
	if (a->encrypt.wanted && a->secrets.nr != 1)
		argp_error(state, "--encrypt: needs one passphrase: --key-file, --key-credential, "
				  "--key-keyring or --key-prompt");
	if (a->encrypt.wanted) {
		cow_encrypt_options_finish(&a->encrypt);
		a->options.encrypt = &a->encrypt.format;
	}
	return 0;
}

/* Octal, as chmod has it; not a number of number.h, which are decimal. */
static bool parse_mode(struct cow_create_options *o, const char *text)
{
	o->mode = 0;
	o->has_mode = true;
	const char *p = text;
	for (; *p >= '0' && *p <= '7' && o->mode <= 0777; p++)
		o->mode = o->mode << 3 | (unsigned)(*p - '0');
	return p > text && !*p && o->mode <= 0777;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->secrets;
		return 0;
	case 'e':
		if (strcmp(arg, "luks"))
			argp_error(state, "--encrypt %s: only luks can be made", arg);
		a->encrypt.wanted = true;
		return 0;
	case 'b':
		a->options.backing_file = arg;
		return 0;
	case 'F':
		a->options.backing_format = arg;
		return 0;
	case 'u':
		a->options.unsafe = true;
		return 0;
	case 'o':
		parse_values(&a->options, arg, state);
		return 0;
	case KEY_FORCE:
		a->options.overwrite = true;
		return 0;
	case 'm':
		if (!parse_mode(&a->options, arg))
			argp_error(state, "--mode %s: must be octal, like 0640, at most 0777", arg);
		return 0;
	case ARGP_KEY_ARG:
		return parse_argument(a, arg, state);
	case ARGP_KEY_END:
		return finish_arguments(a, state);
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int create(struct arguments *a)
{
	struct cow_error err = { 0 };
	struct cow_loop *loop;
	if (cow_loop_sync_new(&loop))
		return cow_cmd_fail("out of memory");
	int ret = cow_secrets_load(&a->secrets, a->image, true, &err);
	a->options.secret = a->secrets.loaded[0];
	if (!ret)
		ret = cow_create(cow_host_system(), loop, a->image, &a->options, &err);
	cow_secrets_free(&a->secrets);
	cow_loop_free(loop);
	return ret ? cow_named_fail(a->image, ret, &err) : 0;
}

int cow_cmd_create(int argc, char **argv)
{
	static const struct argp_child children[] = { { &cow_secret_argp, 0, "Passphrase:", 0 },
						      { 0 } };
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "IMAGE [SIZE]",
		.doc = "Make a new qcow2 image of SIZE bytes (k, M, G, T: powers of 1024); with a "
		       "backing file SIZE "
		       "defaults to the backing file's.",
		.children = children,
	};
	struct arguments a = { 0 };
	cow_encrypt_options_init(&a.encrypt);
	struct cow_args args = { 0 };
	cow_args_parse(&argp, COW_ARGS_QUIET | COW_ARGS_FORMAT, argc, argv, &args, &a);
	return create(&a);
}
