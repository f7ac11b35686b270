/* SPDX-License-Identifier: MIT */
/* cowblk snapshot: internal snapshots of an image that is not attached. */
#include "daemon/cli/commands.h"
#include "daemon/options/closed.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/options/args.h"
#include "daemon/client/ask_snapshot.h"
#include "daemon/options/named.h"
#include "daemon/control/record.h"
#include "daemon/control/show.h"
#include "daemon/control/target.h"
#include "engine/host/system.h"
#include "engine/life/info.h"
#include "engine/loop/loop_plain.h"
#include "engine/snapshot/snapshot.h"

struct arguments;

struct action {
	const char *name;
	/* NULL: list */
	int (*change)(const void *ctx, struct cow_loop *loop, struct cow_file *file,
		      struct cow_error *err);
	bool names_one; /* takes SNAPSHOT */
	bool live;	/* works on an attached image, through its daemon */
};

struct arguments {
	const struct action *action;
	const char *image;
	struct cow_snapshot_key key;
	struct cow_args common;
	bool freeze;
};

/* ---- the actions ---- */

static int create(const void *ctx, struct cow_loop *loop, struct cow_file *file,
		  struct cow_error *err)
{
	const struct arguments *a = ctx;
	struct timespec now;
	char *id = NULL;
	clock_gettime(CLOCK_REALTIME, &now);
	const struct cow_snapshot_date date = { .sec = (uint32_t)now.tv_sec,
						.nsec = (uint32_t)now.tv_nsec };
	int ret = cow_snapshot_create(loop, file, a->key.text, &date, &id, err);
	if (!ret && id && !a->common.quiet)
		puts(id);
	free(id);
	return ret;
}

static int apply(const void *ctx, struct cow_loop *loop, struct cow_file *file,
		 struct cow_error *err)
{
	const struct arguments *a = ctx;
	return cow_snapshot_apply(loop, file, &a->key, err);
}

static int delete (const void *ctx, struct cow_loop *loop, struct cow_file *file,
		   struct cow_error *err)
{
	const struct arguments *a = ctx;
	return cow_snapshot_delete(loop, file, &a->key, err);
}

static int list(const struct arguments *a, struct cow_loop *loop, struct cow_error *err)
{
	struct cow_info info;
	struct cow_record record = { 0 };
	uint32_t id;
	bool attached = cow_target_device(a->image, &id) && !cow_record_read(id, &record);
	if (attached && cow_target_has_moved(&record)) {
		int moved = cow_error_set(err, -ESTALE,
					  "%s: its image is no longer at %s: name it by its "
					  "path",
					  a->image, record.image);
		cow_record_fini(&record);
		return moved;
	}
	int ret = cow_info_load(cow_host_system(), loop, attached ? record.image : a->image, &info,
				err);
	cow_record_fini(&record);
	if (ret)
		return ret;
	struct json_object *snapshots =
		cow_show_snapshots(info.snapshots, info.header.nr_snapshots);
	if (a->common.json)
		puts(json_object_to_json_string_ext(
			snapshots, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	else if (info.header.nr_snapshots)
		cow_show_snapshots_text(snapshots);
	json_object_put(snapshots);
	cow_info_fini(&info);
	return 0;
}

static const struct action actions[] = {
	{ "create", create, true, true },
	{ "apply", apply, true, false },
	{ "delete", delete, true, true },
	{ "list", NULL, false, false },
};

/* ---- arguments ---- */

enum { KEY_FREEZE = 256 };

static const struct argp_option options[] = {
	{ "id", 'i', NULL, 0, "SNAPSHOT is an id (default: an id or a name, whichever fits)", 0 },
	{ "name", 'n', NULL, 0, "SNAPSHOT is a name", 0 },
	{ "freeze", KEY_FREEZE, NULL, 0,
	  "create, attached: freeze the mounted file systems around it", 0 },
	{ NULL, 'c', "NAME", 0, "create, as qemu-img spells it", 0 },
	{ NULL, 'a', "SNAPSHOT", 0, "apply", 0 },
	{ NULL, 'd', "SNAPSHOT", 0, "delete", 0 },
	{ NULL, 'l', NULL, 0, "list", 0 },
	{ 0 },
};

static const struct action *find_action(const char *name)
{
	for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++)
		if (!strcmp(actions[i].name, name))
			return &actions[i];
	return NULL;
}

static error_t parse_word(struct arguments *a, char *word, struct argp_state *state)
{
	if (!a->action) {
		a->action = find_action(word);
		if (!a->action)
			cow_args_no_action(state, word);
		return 0;
	}
	if (!a->image)
		a->image = word;
	else if (a->action->names_one && !a->key.text)
		a->key.text = word;
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

/* -c, -a, -d, -l */
static void set_action(struct arguments *a, const char *name, const char *snapshot,
		       struct argp_state *state)
{
	if (a->action)
		argp_error(state, "%s and %s: one action at a time", a->action->name, name);
	a->action = find_action(name);
	a->key.text = snapshot;
}

/* What is accepted has a meaning. */
static void check_arguments(const struct arguments *a, struct argp_state *state)
{
	if (!a->action || !a->image) {
		argp_error(state, "%s is missing",
			   a->action ? "IMAGE" : "what to do (create, apply, delete or list)");
		return;
	}
	const char *name = a->action->name;
	bool lists = !a->action->names_one, creates = !strcmp(name, "create");
	if (!lists && !a->key.text)
		argp_error(state, "SNAPSHOT is missing");
	else if (!lists && (a->common.json || a->common.share))
		argp_error(state, "%s: %s is for list", name, a->common.json ? "--json" : "-U");
	else if (a->freeze && !creates)
		argp_error(state, "%s: --freeze is for create", name);
	else if (a->key.by && (lists || creates))
		argp_error(state, "%s: --id and --name are for apply and delete", name);
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	switch (key) {
	case 'i':
		a->key.by = COW_SNAPSHOT_BY_ID;
		return 0;
	case 'n':
		a->key.by = COW_SNAPSHOT_BY_NAME;
		return 0;
	case KEY_FREEZE:
		a->freeze = true;
		return 0;
	case 'c':
		set_action(a, "create", arg, state);
		return 0;
	case 'a':
		set_action(a, "apply", arg, state);
		return 0;
	case 'd':
		set_action(a, "delete", arg, state);
		return 0;
	case 'l':
		set_action(a, "list", NULL, state);
		return 0;
	case ARGP_KEY_ARG:
		return parse_word(a, arg, state);
	case ARGP_KEY_END:
		check_arguments(a, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* Here a device means the image behind it, not what lies on it. */
static bool is_attached(const char *name, uint32_t *id)
{
	struct cow_record record;
	if (!cow_target_device(name, id))
		return cow_target_image(name, id, 1) > 0;
	if (cow_record_read(*id, &record))
		return false;
	cow_record_fini(&record);
	return true;
}

int cow_cmd_snapshot(int argc, char **argv)
{
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "create IMAGE NAME\napply IMAGE SNAPSHOT\ndelete IMAGE SNAPSHOT\nlist "
			    "IMAGE\n-c NAME IMAGE\n-a SNAPSHOT IMAGE\n-d SNAPSHOT IMAGE\n-l IMAGE",
		.doc = "Internal snapshots of IMAGE; create, delete and list also while it is "
		       "attached (IMAGE may be the device "
		       "then).\v"
		       "create prints the new snapshot's id. apply gives the disk the snapshot's "
		       "content and size; what it "
		       "held before is lost unless another snapshot holds it. A crash leaves the "
		       "image as it was before "
		       "the command or as it is after it.",
	};
	struct arguments a = { 0 };
	struct cow_error err = { 0 };
	struct cow_loop *loop;
	cow_args_parse(&argp,
		       COW_ARGS_QUIET | COW_ARGS_OUTPUT | COW_ARGS_FORMAT | COW_ARGS_SHARE |
			       COW_ARGS_EMPTY,
		       argc, argv, &a.common, &a);
	uint32_t id;
	struct cow_target target;
	if (cow_target_is_ambiguous(a.image))
		return cow_cmd_fail_ambiguous(a.image);
	if (a.action->live && cow_target_writer(a.image, &target))
		return cow_ask_snapshot(target, a.action->name, &a.key, a.freeze);
	if (a.action->names_one && !a.action->live && is_attached(a.image, &id))
		return cow_cmd_fail("%s: is attached as /dev/ublkb%u: detach it first", a.image,
				    id);
	if (a.action->change)
		return cow_closed_run(a.image, COW_OPEN_WRITE, a.action->change, &a);
	if (cow_loop_plain_new(&loop))
		return cow_cmd_fail("out of memory");
	int ret = list(&a, loop, &err);
	cow_loop_free(loop);
	return ret ? cow_named_fail(a.image, ret, &err) : 0;
}
