/* SPDX-License-Identifier: MIT */
/* cowblk detach: asks the daemon, or cleans up after one that died. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/device/busy.h"
#include "daemon/cli/ask.h"
#include "daemon/cli/cmd.h"
#include "daemon/control/control.h"
#include "daemon/device/ctrl.h"
#include "daemon/control/record.h"
#include "daemon/control/target.h"

/* For those who still hold the remains of a dead device; then it goes when they let go. */
#define DELETE_WAIT_MS 500
#define CLOSE_WAIT_MS 60000
#define LOOKER_WAIT_MS 1000
#define POLL_MS 50

struct detach {
	bool all, force;
	int nr_targets;
	char **targets;
};

static const struct argp_option options[] = {
	{ "all", 'a', NULL, 0, "Detach every device; with IMAGEs: every device of theirs", 0 },
	{ "force", 'f', NULL, 0,
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
	case 'f':
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

/* ---- a daemon that died ---- */

/* The kernel may have given the id to somebody else since. */
static bool is_still_theirs(struct cow_ctrl *ctrl, const struct cow_record *record)
{
	struct ub_dev_info info;
	return !cow_ctrl_get_info(ctrl, record->id, &info) && info.ublksrv_flags == record->cookie;
}

static int clean_up(struct cow_record *record)
{
	/* Or did it just end as it should, while we were looking? */
	uint32_t id = record->id;
	cow_record_fini(record);
	if (cow_record_read(id, record))
		return 0;

	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	int ret = 0;
	if (!cow_ctrl_open(&ctrl, &err)) {
		if (is_still_theirs(&ctrl, record)) {
			cow_ctrl_stop(&ctrl, record->id);
			ret = cow_ctrl_delete(&ctrl, record->id, DELETE_WAIT_MS);
		}
		cow_ctrl_close(&ctrl);
	} else if (err.code != -ENODEV) {
		return cow_cmd_fail("%s", err.text);
	}
	if (ret && ret != -ENODEV)
		return cow_cmd_fail("/dev/ublkb%u: cannot delete: %s", record->id, strerror(-ret));
	cow_record_remove(record->id);
	fprintf(stderr,
		"cowblk: /dev/ublkb%u: its daemon (process %d) had died: what was not flushed is "
		"lost: run `cowblk check %s`\n",
		record->id, record->pid, record->image);
	return 0;
}

/* ---- a daemon that lives ---- */

/* Those who just look (udev) get time to finish. */
static bool is_in_use(uint32_t id, char *who, size_t len)
{
	char disk[24];
	snprintf(disk, sizeof(disk), "ublkb%u", id);
	for (unsigned ms = 0; cow_busy_find(disk, who, len); ms += POLL_MS) {
		if (ms >= LOOKER_WAIT_MS)
			return true;
		nanosleep(&(struct timespec){ .tv_nsec = POLL_MS * 1000000 }, NULL);
	}
	return false;
}

static int ask(uint32_t id, bool force)
{
	struct cow_talk talk;
	struct json_object *reply, *request = json_object_new_object();
	json_object_object_add(request, "cmd", json_object_new_string("detach"));
	json_object_object_add(request, "force", json_object_new_boolean(force));
	int status = cow_ask(&talk, id, request, &reply);
	if (!status) {
		json_object_put(reply);
		cow_talk_wait_end(&talk);
	}
	cow_talk_close(&talk);
	return status;
}

/*
 * The daemon cannot: its keeper is dead. Told by the kernel that the device has stopped it closes
 * the image as ever, and leaves device and record to us.
 */
static int stop_for_daemon(struct cow_record *record)
{
	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	uint32_t id = record->id;
	if (cow_ctrl_open(&ctrl, &err))
		return cow_cmd_fail("%s", err.text);
	int ret = is_still_theirs(&ctrl, record) ? cow_ctrl_stop(&ctrl, id) : -ENODEV;
	int fd = 0;
	for (unsigned ms = 0; !ret && ms < CLOSE_WAIT_MS; ms += POLL_MS) {
		fd = cow_control_connect(id);
		if (fd < 0)
			break;
		close(fd);
		nanosleep(&(struct timespec){ .tv_nsec = POLL_MS * 1000000 }, NULL);
	}
	if (!ret && fd < 0 && is_still_theirs(&ctrl, record))
		ret = cow_ctrl_delete(&ctrl, id, DELETE_WAIT_MS);
	cow_ctrl_close(&ctrl);
	if (ret)
		return cow_cmd_fail("/dev/ublkb%u: cannot stop: %s", id, strerror(-ret));
	if (fd >= 0)
		return cow_cmd_fail("/dev/ublkb%u: stopped, but its daemon (process %d) is still "
				    "closing the image: detach again later",
				    id, record->pid);
	cow_record_remove(id);
	return 0;
}

static int detach_id(uint32_t id, bool force)
{
	struct cow_record record;
	int ret = cow_record_read(id, &record);
	if (ret == -ENOENT)
		return cow_cmd_fail("/dev/ublkb%u: not attached by cowblk: see `cowblk list`", id);
	if (ret)
		return cow_cmd_fail("/dev/ublkb%u: cannot read its record: %s", id, strerror(-ret));
	char who[256];
	int fd = cow_control_connect(id), status;
	if (fd >= 0)
		close(fd);
	if (fd == -ECONNREFUSED || fd == -ENOENT)
		status = clean_up(&record);
	else if (!force && is_in_use(id, who, sizeof(who)))
		status = cow_cmd_fail("/dev/ublkb%u: in use: %s: unmount or close it first", id,
				      who);
	else
		status = ask(id, force);
	if (status && force && fd >= 0)
		status = stop_for_daemon(&record);
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

static int detach_target(const char *target, const struct detach *detach)
{
	uint32_t id;
	static uint32_t ids[COW_MAX_DEVICES];
	if (cow_target_device(target, &id))
		return detach_id(id, detach->force);
	int nr = cow_target_image(target, ids, COW_MAX_DEVICES), status = 0;
	if (nr <= 0)
		return cow_cmd_fail(
			"%s: neither an attached image nor its device: see `cowblk list`", target);
	if (nr > 1 && !detach->all)
		return ambiguous(target, ids, nr);
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
	argp_parse(&argp, argc, argv, 0, NULL, &detach);
	if (!detach.nr_targets)
		return detach_all(detach.force);
	int status = 0;
	for (int i = 0; i < detach.nr_targets; i++)
		status |= detach_target(detach.targets[i], &detach);
	return status;
}
