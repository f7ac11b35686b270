/* SPDX-License-Identifier: MIT */
/* cowblk amend: change the format of an image that is not attached. */
#include "daemon/cli/cmd.h"

#include <argp.h>
#include <stdbool.h>
#include <string.h>

#include "daemon/control/target.h"
#include "daemon/cli/values.h"
#include "engine/edit/amend.h"
#include "engine/host/system.h"

struct arguments {
	struct cow_amend_options options;
	const char *image;
	bool any;
};

static const struct argp_option options[] = {
	{ "option", 'o', "NAME=VALUE[,...]", 0,
	  "compat=0.10|1.1 (version 2 or 3), lazy_refcounts=on|off", 0 },
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
		if (!value)
			argp_error(state, "-o %s: must be NAME=VALUE", name);
		else if (parse_value(&a->options, name, value, &known))
			a->any = true;
		else if (known)
			argp_error(state, "-o %s: '%s' is not a valid value: see --help", name,
				   value);
		else
			argp_error(state, "-o %s: cannot be changed: see --help", name);
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

static int amend(const struct arguments *a, struct cow_loop *loop, struct cow_error *err)
{
	struct cow_host *host = cow_host_system();
	struct cow_file *file;
	int ret = host->ops->open(host, a->image, COW_OPEN_WRITE | COW_OPEN_BUFFERED, &file, err);
	if (ret)
		return ret;
	ret = cow_amend(loop, file, &a->options, err);
	if (ret)
		cow_error_prefix(err, "%s", a->image);
	host->ops->close(file);
	return ret;
}

int cow_cmd_amend(int argc, char **argv)
{
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "IMAGE",
		.doc = "Change the format of IMAGE, which is not attached.\v"
		       "From version 2 to 3 always works, unless the image's header has no room "
		       "for it; back only if the image holds "
		       "nothing that needs version 3. A crash leaves the image as it was or as it "
		       "shall be.",
	};
	struct arguments a = { 0 };
	struct cow_error err = { 0 };
	struct cow_loop *loop;
	uint32_t id;
	argp_err_exit_status = 1;
	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return 1;
	if (cow_target_image(a.image, &id, 1) > 0)
		return cow_cmd_fail("%s: is attached as /dev/ublkb%u: detach it first", a.image,
				    id);
	if (cow_loop_sync_new(&loop))
		return cow_cmd_fail("out of memory");
	int ret = amend(&a, loop, &err);
	cow_loop_free(loop);
	return ret ? cow_cmd_fail("%s", err.text[0] ? err.text : strerror(-ret)) : 0;
}
