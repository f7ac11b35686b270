/* SPDX-License-Identifier: MIT */
/* cowblk amend: change the format of an image that is not attached. */
#include "daemon/cli/commands.h"
#include "daemon/options/closed.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/options/args.h"
#include "daemon/options/named.h"
#include "daemon/options/slot_options.h"
#include "daemon/options/values.h"
#include "daemon/control/target.h"
#include "engine/base/number.h"
#include "engine/edit/amend.h"
#include "engine/edit/amend_keys.h"
#include "engine/host/system.h"
#include "engine/loop/loop_plain.h"

struct arguments {
	struct cow_amend_options options;
	struct cow_slot_options slots;
	const char *image;
	bool any;
};

enum { KEY_FORCE = 256, KEY_OBJECT, KEY_NEW_FILE, KEY_NEW_PROMPT, KEY_OLD_FILE };

static const struct argp_option options[] = {
	{ "option", 'o', "NAME=VALUE[,...]", 0,
	  "compat=0.10|1.1 (version 2 or 3), lazy_refcounts=on|off, "
	  "refcount_bits=1|2|4|8|16|32|64, backing_file=, backing_fmt=qcow2|raw (only the name: "
	  "see rebase), size=; passphrases, by themselves: "
	  "encrypt.state=active|inactive, encrypt.keyslot=, encrypt.iter-time=MILLISECONDS (2000), "
	  "encrypt.new-secret=ID, encrypt.old-secret=ID; help lists them",
	  0 },
	{ "new-key-file", KEY_NEW_FILE, "FILE", 0, "Passphrase to be added: all bytes of FILE", 0 },
	{ "new-key-prompt", KEY_NEW_PROMPT, NULL, 0,
	  "Passphrase to be added: ask for it on the terminal", 0 },
	{ "old-key-file", KEY_OLD_FILE, "FILE", 0, "Passphrase to be removed: all bytes of FILE",
	  0 },
	{ "object", KEY_OBJECT, "secret,id=ID,file=FILE", 0,
	  "A passphrase by a name for -o, as qemu-img has it (repeatable)", 0 },
	{ "force", KEY_FORCE, NULL, 0,
	  "Remove the last passphrase, too: nobody can read the image any more", 0 },
	{ 0 },
};

static const struct cow_value_doc docs[] = {
	{ "compat", "0.10|1.1 (version 2 or 3)" },
	{ "lazy_refcounts", "on|off" },
	{ "refcount_bits", "1|2|4|8|16|32|64" },
	{ "backing_file", "a file, relative to the image's directory; empty: none" },
	{ "backing_fmt", "qcow2|raw" },
	{ "size", "a size, like 20G: the disk becomes larger" },
	{ "encrypt.state", "active|inactive (add a passphrase, or remove one)" },
	{ "encrypt.keyslot", "a number, 0 to 7" },
	{ "encrypt.new-secret", "the id of an --object, whose passphrase is added" },
	{ "encrypt.old-secret", "the id of an --object, whose passphrase is removed" },
	{ "encrypt.key-secret", "the id of an --object, whose passphrase opens the image" },
	{ "encrypt.iter-time", "milliseconds, 1 to 60000 (default 2000)" },
	{ 0 },
};

static bool parse_bits(const char *value, uint32_t *bits)
{
	uint64_t n;
	bool valid = cow_number_parse(value, 64, &n) && n && !(n & (n - 1));
	*bits = valid ? (uint32_t)n : 0;
	return valid;
}

static bool parse_value(struct arguments *a, const char *name, const char *value, bool *known)
{
	struct cow_amend_options *o = &a->options;
	unsigned long long bytes;
	bool on;
	*known = true;
	if (!strncmp(name, "encrypt.", strlen("encrypt.")))
		return cow_slot_options_parse(&a->slots, name + strlen("encrypt."), value, known);
	a->any = true;
	if (!strcmp(name, "compat"))
		return cow_value_compat(value, &o->version);
	if (!strcmp(name, "lazy_refcounts")) {
		bool valid = cow_value_switch(value, &on);
		o->lazy_refcounts = on ? COW_AMEND_ON : COW_AMEND_OFF;
		return valid;
	}
	if (!strcmp(name, "refcount_bits"))
		return parse_bits(value, &o->refcount_bits);
	if (!strcmp(name, "size"))
		return !cow_cmd_parse_size(value, &bytes) && (o->size_bytes = bytes) != 0;
	if (!strcmp(name, "backing_file")) {
		o->backing_file = value;
		return true;
	}
	if (!strcmp(name, "backing_fmt")) {
		o->backing_format = value;
		return !strcmp(value, "qcow2") || !strcmp(value, "raw");
	}
	*known = false;
	return false;
}

static void parse_values(struct arguments *a, char *list, struct argp_state *state)
{
	char *name, *value;
	bool known;
	while ((name = cow_values_next(&list, &value)) != NULL) {
		if (cow_values_is_help(name, value)) {
			cow_values_help(docs);
			exit(0);
		}
		if (!value)
			argp_error(state, "-o %s: must be NAME=VALUE", name);
		else if (parse_value(a, name, value, &known))
			continue;
		else if (known)
			cow_values_invalid(docs, name, value, state);
		else
			cow_values_unknown(docs, name, state);
	}
}

static error_t finish(struct arguments *a, struct argp_state *state)
{
	if (!a->image)
		argp_error(state, "IMAGE is missing");
	cow_slot_options_finish(&a->slots, state);
	if (!a->any && !a->slots.given)
		argp_error(state, "what to change (-o) is missing");
	if (a->any && a->slots.given)
		argp_error(state, "-o encrypt....: by itself only: amend the rest before or after");
	return 0;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->slots.secrets[COW_SLOT_OPENS];
		return 0;
	case 'o':
		parse_values(a, arg, state);
		return 0;
	case KEY_FORCE:
		a->slots.force = true;
		return 0;
	case KEY_OBJECT:
		cow_slot_options_object(&a->slots, arg, state);
		return 0;
	case KEY_NEW_FILE:
	case KEY_NEW_PROMPT:
		cow_slot_options_source(&a->slots, COW_SLOT_NEW, arg, state);
		return 0;
	case KEY_OLD_FILE:
		cow_slot_options_source(&a->slots, COW_SLOT_OLD, arg, state);
		return 0;
	case ARGP_KEY_ARG:
		if (a->image)
			return ARGP_ERR_UNKNOWN;
		a->image = arg;
		return 0;
	case ARGP_KEY_END:
		return finish(a, state);
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int amend(const void *ctx, struct cow_loop *loop, struct cow_file *file,
		 struct cow_error *err)
{
	const struct arguments *a = ctx;
	if (a->slots.given)
		return cow_amend_keys(loop, file, &a->slots.change, err);
	return cow_amend(loop, file, &a->options, err);
}

static int run(struct arguments *a)
{
	struct cow_error err = { 0 };
	int ret = a->slots.given ? cow_slot_options_load(&a->slots, a->image, &err) : 0;
	if (ret)
		return cow_named_fail(a->image, ret, &err);
	int status = cow_closed_run(a->image, COW_OPEN_WRITE, amend, a);
	cow_slot_options_free(&a->slots);
	return status;
}

int cow_cmd_amend(int argc, char **argv)
{
	static const struct argp_child children[] = {
		{ &cow_secret_argp, 0, "Passphrase that opens IMAGE:", 0 }, { 0 }
	};
	static const struct argp argp = {
		.options = options,
		.children = children,
		.parser = parse_option,
		.args_doc = "-o NAME=VALUE[,...] IMAGE",
		.doc = "Change the format of IMAGE, which is not attached.\v"
		       "From version 2 to 3 always works, unless the image's header has no room "
		       "for it; back only if the image holds "
		       "nothing that needs version 3. A crash leaves the image as it was or as it "
		       "shall be; of passphrases, the old one or "
		       "the new one opens it, at every moment.",
	};
	struct arguments a = { 0 };
	uint32_t id;
	cow_slot_options_init(&a.slots);
	struct cow_args args = { .values = docs };
	cow_args_parse(&argp, COW_ARGS_QUIET | COW_ARGS_FORMAT, argc, argv, &args, &a);
	if (cow_target_image(a.image, &id, 1) > 0)
		return cow_cmd_fail("%s: is attached as /dev/ublkb%u: detach it first", a.image,
				    id);
	return run(&a);
}
