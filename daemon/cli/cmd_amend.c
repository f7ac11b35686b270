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
#include "daemon/options/values.h"
#include "daemon/control/target.h"
#include "engine/edit/amend.h"
#include "engine/host/system.h"
#include "engine/loop/loop_plain.h"

struct arguments {
	struct cow_amend_options options;
	const char *image;
	bool any;
};

static const struct argp_option options[] = {
	{ "option", 'o', "NAME=VALUE[,...]", 0,
	  "compat=0.10|1.1 (version 2 or 3), lazy_refcounts=on|off; help lists them", 0 },
	{ 0 },
};

static const struct cow_value_doc docs[] = {
	{ "compat", "0.10|1.1 (version 2 or 3)" },
	{ "lazy_refcounts", "on|off" },
	{ 0 },
};

static bool parse_value(struct cow_amend_options *o, const char *name, const char *value,
			bool *known)
{
	bool on;
	*known = true;
	if (!strcmp(name, "compat"))
		return cow_value_compat(value, &o->version);
	if (!strcmp(name, "lazy_refcounts")) {
		bool valid = cow_value_switch(value, &on);
		o->lazy_refcounts = on ? COW_AMEND_ON : COW_AMEND_OFF;
		return valid;
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
		else if (parse_value(&a->options, name, value, &known))
			a->any = true;
		else if (known)
			cow_values_invalid(docs, name, value, state);
		else
			cow_values_unknown(docs, name, state);
	}
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	switch (key) {
	case 'o':
		parse_values(a, arg, state);
		return 0;
	case ARGP_KEY_ARG:
		if (a->image)
			return ARGP_ERR_UNKNOWN;
		a->image = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->image || !a->any)
			argp_error(state, "%s is missing",
				   a->image ? "what to change (-o)" : "IMAGE");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int amend(const void *ctx, struct cow_loop *loop, struct cow_file *file,
		 struct cow_error *err)
{
	const struct arguments *a = ctx;
	return cow_amend(loop, file, &a->options, err);
}

int cow_cmd_amend(int argc, char **argv)
{
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "-o NAME=VALUE[,...] IMAGE",
		.doc = "Change the format of IMAGE, which is not attached.\v"
		       "From version 2 to 3 always works, unless the image's header has no room "
		       "for it; back only if the image holds "
		       "nothing that needs version 3. A crash leaves the image as it was or as it "
		       "shall be.",
	};
	struct arguments a = { 0 };
	uint32_t id;
	struct cow_args args = { .values = docs };
	cow_args_parse(&argp, COW_ARGS_QUIET | COW_ARGS_FORMAT, argc, argv, &args, &a);
	if (cow_target_image(a.image, &id, 1) > 0)
		return cow_cmd_fail("%s: is attached as /dev/ublkb%u: detach it first", a.image,
				    id);
	return cow_closed_run(a.image, COW_OPEN_WRITE, amend, &a);
}
