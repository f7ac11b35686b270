/* SPDX-License-Identifier: MIT */
/* cowblk detach: asks the daemon, or cleans up after one that died. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/options/args.h"
#include "daemon/client/ask.h"
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"
#include "daemon/client/force.h"
#include "daemon/client/leftover.h"
#include "daemon/options/named.h"
#include "daemon/control/control.h"
#include "daemon/control/record.h"
#include "daemon/control/target.h"
#include "daemon/device/ctrl.h"
#include "daemon/holders/busy.h"
#include "daemon/holders/fsfreeze.h"

/* --force: for a word of the daemon's, and for a daemon that says that it is at work. */
#define FORCE_SILENCE_MS 5000u
#define FORCE_LIMIT_MS 300000u
#define LOOKER_WAIT_MS 1000
#define POLL_MS 50
/* For a supervisor to end after its daemon. */
#define SUPERVISOR_LIMIT_MS 10000u
/* For what is mounted to be written back by force. */
#define SYNC_LIMIT_MS 30000

struct detach {
	bool all, force;
	int nr_targets;
	char **targets;
};

enum { KEY_FORCE = 256 };

static const struct argp_option options[] = {
	{ "all", 'a', NULL, 0, "Detach every device; with IMAGEs: every device of theirs", 0 },
	{ "force", KEY_FORCE, NULL, 0,
	  "Detach a device that is in use or cannot be flushed: its users get errors", 0 },
	{ 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct detach *detach = state->input;
	switch (key) {
	case 'a':
		detach->all = true;
		return 0;
	case KEY_FORCE:
		detach->force = true;
		return 0;
	case ARGP_KEY_ARGS:
		detach->targets = state->argv + state->next;
		detach->nr_targets = state->argc - state->next;
		return 0;
	case ARGP_KEY_END:
		if (!detach->all && !detach->nr_targets)
			argp_error(state, "name devices or images, or say --all");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse_option,
	.args_doc = "DEVICE|IMAGE...\n--all [IMAGE...]",
	.doc = "Flush and detach devices, named by path (/dev/ublkb0) or by their image.\v"
	       "A device that is mounted or open is refused. The command returns when the image is "
	       "closed. An image that "
	       "several devices serve (read-only ones, snapshots) names none of them: name the "
	       "device, or say --all.",
};

/* ---- a daemon that lives ---- */

/* Those who just look (udev) get time to finish. */
static enum cow_busy is_in_use(uint32_t id, char *who, size_t len)
{
	char disk[24];
	snprintf(disk, sizeof(disk), "ublkb%u", id);
	for (unsigned ms = 0;; ms += POLL_MS) {
		enum cow_busy busy = cow_busy_find_everywhere(disk, who, len);
		if (busy != COW_BUSY_SOMEBODY || ms >= LOOKER_WAIT_MS)
			return busy;
		nanosleep(&(struct timespec){ .tv_nsec = POLL_MS * 1000000 }, NULL);
	}
}

/* Does the kernel itself refuse to stop a device that anybody has open? Older ones see claims only. */
static bool kernel_refuses(void)
{
	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	if (cow_ctrl_open(&ctrl, &err))
		return false;
	bool refuses = ctrl.features & UB_F_SAFE_STOP_DEV;
	cow_ctrl_close(&ctrl);
	return refuses;
}

/* 0: nobody was found, or the kernel knows better. Else the exit status, and a line. */
static int check_unused(uint32_t id)
{
	char who[512];
	enum cow_busy busy = is_in_use(id, who, sizeof(who));
	if (busy == COW_BUSY_NOBODY)
		return 0;
	if (busy == COW_BUSY_SOMEBODY)
		return cow_cmd_fail("/dev/ublkb%u: in use: %s: unmount or close it first", id, who);
	if (!kernel_refuses())
		return cow_cmd_fail(
			"/dev/ublkb%u: %s: not detached: if nobody does, `cowblk detach "
			"--force /dev/ublkb%u`",
			id, who, id);
	fprintf(stderr, "cowblk: /dev/ublkb%u: %s: the kernel decides\n", id, who);
	return 0;
}

enum manner {
	IF_UNUSED,
	BY_FORCE,
};

static struct json_object *new_request(enum manner manner)
{
	struct json_object *request = json_object_new_object();
	json_object_object_add(request, "cmd", json_object_new_string("detach"));
	json_object_object_add(request, "force", json_object_new_boolean(manner == BY_FORCE));
	return request;
}

static int ask(struct cow_target target)
{
	struct cow_talk talk;
	struct json_object *reply;
	int status = cow_ask(&talk, target, new_request(IF_UNUSED), &reply);
	if (!status) {
		json_object_put(reply);
		COW_IGNORE(cow_talk_wait_end(&talk));
	}
	cow_talk_close(&talk);
	return status;
}

static void say(const char *text)
{
	fprintf(stderr, "cowblk: %s\n", text);
}

/* What the kernel does of that when a device goes is not enough: btrfs loses what it has in memory. */
static void write_back(uint32_t id)
{
	struct cow_fsfreeze f;
	struct cow_error err = { 0 };
	char disk[24];
	snprintf(disk, sizeof(disk), "ublkb%u", id);
	int ret = cow_fsfreeze_prepare(&f, disk, SYNC_LIMIT_MS, 0, 0, say, &err);
	if (!ret)
		cow_fsfreeze_leave(&f);
	else if (ret != -ENOENT)
		fprintf(stderr, "cowblk: /dev/%s: what is mounted is not written back: %s\n", disk,
			err.text);
}

/* A daemon that answers does it best; the others are not asked for long. */
static int force_out(const struct cow_record *record)
{
	struct cow_talk talk;
	const struct cow_target target = { record->id, record->cookie };
	int error;
	write_back(record->id);
	struct json_object *reply = cow_ask_within(&talk, target, new_request(BY_FORCE),
						   FORCE_SILENCE_MS, FORCE_LIMIT_MS, &error);
	if (reply && !cow_control_reply_error(reply))
		COW_IGNORE(cow_talk_wait_end(&talk));
	cow_talk_close(&talk);
	if (reply && cow_ask_show_error(record->id, reply))
		return cow_force_stop(record);
	if (reply)
		return 0;
	return error == -ETIMEDOUT ? cow_force_detach(record) : cow_ask_fail(record->id, error);
}

static int no_record(uint32_t id, int error, bool force)
{
	if (error != -ENOENT)
		return cow_cmd_fail("/dev/ublkb%u: cannot read its record: %s", id,
				    strerror(-error));
	if (cow_leftover_remove(id))
		return 0;
	if (force && cow_leftover_waits(id))
		return cow_leftover_force(id);
	if (cow_leftover_waits(id))
		return cow_cmd_fail("/dev/ublkb%u: its daemon has died, and requests wait for "
				    "another, which may be about to begin in a container: if not, "
				    "`cowblk detach --force /dev/ublkb%u`",
				    id, id);
	return cow_cmd_fail("/dev/ublkb%u: not attached by cowblk: see `cowblk list`", id);
}

static int detach_living(const struct cow_record *record, bool force)
{
	uint32_t id = record->id;
	int supervisor = cow_record_watch_supervisor(id), status;
	if (force)
		status = force_out(record);
	else
		status = check_unused(id) ? 1 : ask((struct cow_target){ id, record->cookie });
	/* It has the image's files open until then, which keeps their file system busy. */
	cow_record_wait_supervisor(supervisor, status ? 0 : SUPERVISOR_LIMIT_MS);
	return status;
}

static int detach_id(uint32_t id, bool force)
{
	struct cow_record record;
	int ret = cow_record_read(id, &record), status;
	if (ret)
		return no_record(id, ret, force);
	if (!cow_control_is_dead(id))
		status = detach_living(&record, force);
	else
		status = force && cow_force_is_alive(&record) ? cow_force_detach(&record)
							      : cow_leftover_clear(&record);
	cow_record_fini(&record);
	return status;
}

/* ---- names ---- */

/* "/dev/ublkb0, /dev/ublkb3 (snapshot before)" */
static void name_devices(const uint32_t *ids, int nr, char *text, size_t len)
{
	size_t n = 0;
	for (int i = 0; i < nr && n < len; i++) {
		struct cow_record record;
		if (cow_record_read(ids[i], &record))
			continue;
		n += (size_t)snprintf(text + n, len - n, "%s/dev/ublkb%u", n ? ", " : "", ids[i]);
		if (record.snapshot && n < len)
			n += (size_t)snprintf(text + n, len - n, " (snapshot %s)", record.snapshot);
		else if (record.temporary && n < len)
			n += (size_t)snprintf(text + n, len - n, " (temporary)");
		cow_record_fini(&record);
	}
}

/* Guessing could take away the wrong one. */
static int ambiguous(const char *image, const uint32_t *ids, int nr)
{
	char devices[512] = "";
	name_devices(ids, nr, devices, sizeof(devices));
	return cow_cmd_fail("%s: is attached more than once: %s: name the device, or detach them "
			    "all with --all",
			    image, devices);
}

/* What dead daemons left does not stand in the way of the one that lives. Their number. */
static int only_live(uint32_t *ids, int nr)
{
	int nr_live = 0;
	for (int i = 0; i < nr; i++) {
		uint32_t id = ids[i];
		if (!cow_control_is_dead(id)) {
			ids[i] = ids[nr_live];
			ids[nr_live++] = id;
		}
	}
	return nr_live;
}

static int not_attached(const char *target)
{
	char text[4500];
	snprintf(text, sizeof(text),
		 "%s: neither an attached image nor its device: see `cowblk list`", target);
	return cow_named_fail_alike(target, text);
}

static int detach_target(const char *target, const struct detach *detach)
{
	uint32_t id;
	static uint32_t ids[COW_MAX_DEVICES];
	if (cow_target_is_ambiguous(target))
		return cow_cmd_fail_ambiguous(target);
	if (cow_target_device(target, &id))
		return detach_id(id, detach->force);
	int nr = cow_target_image(target, ids, COW_MAX_DEVICES), status = 0;
	if (!nr)
		nr = cow_target_left(target, ids, COW_MAX_DEVICES);
	if (nr <= 0)
		return not_attached(target);
	if (nr > 1 && !detach->all) {
		int nr_live = only_live(ids, nr);
		if (nr_live > 1)
			return ambiguous(target, ids, nr_live);
		nr = nr_live ? nr_live : nr;
	}
	for (int i = 0; i < nr; i++)
		status |= detach_id(ids[i], detach->force);
	return status;
}

static int detach_all(bool force)
{
	static uint32_t ids[COW_MAX_DEVICES];
	int nr = cow_record_list(ids, COW_MAX_DEVICES), status = 0;
	if (nr < 0)
		return cow_cmd_fail(COW_RUN_DIR ": %s", strerror(-nr));
	for (int i = 0; i < nr; i++)
		status |= detach_id(ids[i], force);
	return status;
}

int cow_cmd_detach(int argc, char **argv)
{
	struct detach detach = { 0 };
	struct cow_args args = { 0 };
	cow_args_parse(&argp, COW_ARGS_QUIET, argc, argv, &args, &detach);
	if (!detach.nr_targets)
		return detach_all(detach.force);
	int status = 0;
	for (int i = 0; i < detach.nr_targets; i++)
		status |= detach_target(detach.targets[i], &detach);
	return status;
}
