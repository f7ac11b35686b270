/* SPDX-License-Identifier: MIT */
/* cowblk create: make a new qcow2 image. */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/options/args.h"
#include "daemon/options/create_options.h"
#include "daemon/options/named.h"
#include "daemon/options/passphrase.h"
#include "engine/create/create.h"
#include "engine/crypt/secret.h"
#include "engine/host/system.h"
#include "engine/loop/loop_plain.h"

struct arguments {
	struct cow_create_options options;
	struct cow_encrypt_options encrypt;
	struct cow_secrets secrets;
	const char *image;
};

enum { KEY_FORCE = 256 };

static const struct argp_option options[] = {
	{ "backing", 'b', "BASE", 0, "Backing file, relative to the new image's directory", 0 },
	{ "backing-format", 'F', "qcow2|raw", 0, "Format of the backing file: qcow2 or raw", 0 },
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

/* ---- command line ---- */

static error_t parse_argument(struct arguments *a, const char *arg, struct argp_state *state)
{
	if (state->arg_num == 0) {
		a->image = arg;
		return 0;
	}
	if (state->arg_num > 1)
		return ARGP_ERR_UNKNOWN;
	if (!cow_create_option_size(&a->options, arg))
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
		cow_create_options_parse(&a->options, &a->encrypt, arg, state);
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
	if (cow_loop_plain_new(&loop))
		return cow_cmd_fail("out of memory");
	int ret = cow_secrets_load(&a->secrets, a->image, COW_PROMPT_TWICE, &err);
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
	struct cow_args args = { .values = cow_create_options_docs };
	cow_args_parse(&argp, COW_ARGS_QUIET | COW_ARGS_FORMAT, argc, argv, &args, &a);
	return create(&a);
}
