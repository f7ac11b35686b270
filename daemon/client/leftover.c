/* SPDX-License-Identifier: MIT */
/* See leftover.h. In this order: with a record; without one; before an attach. */
#include "daemon/client/leftover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/options/cmd.h"
#include "daemon/client/force.h"
#include "daemon/control/control.h"
#include "daemon/control/target.h"
#include "daemon/holders/busy.h"
#include "daemon/holders/child.h"
#include "daemon/device/ctrl.h"
#include "daemon/device/device.h"
#include "engine/base/number.h"

/* For those who still hold the remains of a dead device; then it goes when they let go. */
#define DELETE_WAIT_MS 500
/* The kernel stops the device of a daemon that died soon after, not at once. */
#define STOP_WAIT_MS 2000
/* For an attach that is under way. */
#define LOCK_WAIT_MS 1000
#define POLL_MS 20
#define WORD_AFTER_MS 2000
#define TAKE_AWAY_LIMIT_MS 20000
/* For an attach in another container, until it has opened its device. */
#define SETTLE_MS 1000
/* An empty folder is somebody's root to be for a moment only. */
#define EMPTY_LIMIT_S 60

static void sleep_poll(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = POLL_MS * 1000000l }, NULL);
}

static int lock_attaches(unsigned wait_ms)
{
	for (unsigned ms = 0;; ms += POLL_MS) {
		int fd = cow_record_lock(COW_RECORD_LOCK_ALL);
		if (fd >= 0 || fd != -EWOULDBLOCK || ms >= wait_ms)
			return fd;
		sleep_poll();
	}
}

/* ---- with a record ---- */

/* The kernel may have given the id to somebody else since. */
static bool is_still_theirs(struct cow_ctrl *ctrl, const struct cow_record *record)
{
	struct ub_dev_info info;
	return !cow_ctrl_get_info(ctrl, record->id, &info) && info.ublksrv_flags == record->cookie;
}

/*
 * In a process of its own: the kernel waits for whoever holds the disk's file system, which may be
 * for ever, and nothing ends a process meanwhile.
 */
static void take_away(int fd, void *ctx)
{
	const struct cow_record *record = ctx;
	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	char text[16];
	int ret = 0;
	if (cow_ctrl_open(&ctrl, &err)) {
		ret = err.code;
	} else if (is_still_theirs(&ctrl, record)) {
		COW_IGNORE(cow_ctrl_stop(&ctrl, record->id));
		ret = cow_ctrl_delete(&ctrl, record->id, DELETE_WAIT_MS);
	}
	snprintf(text, sizeof(text), "%d", -ret);
	COW_IGNORE(cow_child_send(fd, text, -1));
}

/* 0, -errno; -ETIMEDOUT: the kernel is at it. */
static int take_away_in_time(struct cow_record *record)
{
	struct cow_child child;
	char text[COW_CHILD_TEXT_BYTES];
	uint64_t code = 0;
	int ret = cow_child_start(&child, "cowblk-stop", take_away, record);
	if (ret)
		return ret;
	ret = cow_child_receive(child.fd, WORD_AFTER_MS, text, NULL);
	if (ret == -ETIMEDOUT) {
		fprintf(stderr, "cowblk: /dev/ublkb%u: waiting for the kernel to take it away\n",
			record->id);
		ret = cow_child_receive(child.fd, TAKE_AWAY_LIMIT_MS, text, NULL);
	}
	cow_child_leave(&child);
	if (!ret && !cow_number_parse(text, INT_MAX, &code))
		ret = -EIO;
	return ret ? ret : -(int)code;
}

static int clear(struct cow_record *record)
{
	/* Or did it just end as it should, while we were looking? */
	uint32_t id = record->id;
	cow_record_fini(record);
	if (cow_record_read(id, record))
		return 0;

	if (cow_force_is_alive(record))
		return cow_cmd_fail(
			"/dev/ublkb%u: its daemon (process %d) lives, but its socket is "
			"gone: left alone: end it with SIGTERM, or take the device away "
			"with `cowblk detach --force`",
			id, (int)record->pid);

	int ret = take_away_in_time(record);
	if (ret == -ETIMEDOUT)
		return cow_cmd_fail(
			"/dev/ublkb%u: its daemon (process %d) has died, and the kernel "
			"does not let go of it: a file system on it hangs: see the "
			"kernel's log",
			record->id, (int)record->pid);
	if (ret && ret != -ENODEV)
		return cow_cmd_fail("/dev/ublkb%u: cannot delete: %s", record->id, strerror(-ret));
	cow_record_remove(record->id, record->cookie);
	fprintf(stderr,
		"cowblk: /dev/ublkb%u: its daemon (process %d) had died: what was not flushed is "
		"lost: run `cowblk check %s`\n",
		record->id, record->pid, record->image);
	return 0;
}

int cow_leftover_clear(struct cow_record *record)
{
	int lock = lock_attaches(LOCK_WAIT_MS); /* one of them may have been given the id anew */
	int status = clear(record);
	if (lock >= 0)
		close(lock);
	return status;
}

/* ---- without one ---- */

static bool has_record(uint32_t id, uint64_t cookie)
{
	struct cow_record record;
	if (cow_record_read(id, &record))
		return false;
	bool same = record.cookie == cookie;
	cow_record_fini(&record);
	return same;
}

static bool is_gone(pid_t pid)
{
	return pid <= 0 || (kill(pid, 0) && errno == ESRCH);
}

/*
 * The kernel waits for another daemon. In a container with another /run there may be one about to begin; a
 * device of ours whose daemon and supervisor were both killed before it had a record looks the same.
 */
static bool waits_for_daemon(struct cow_ctrl *ctrl, uint32_t id, struct ub_dev_info *info)
{
	return !cow_ctrl_get_info(ctrl, id, info) && info->state == UB_S_DEV_QUIESCED &&
	       cow_device_is_cookie(info->ublksrv_flags) && is_gone(info->ublksrv_pid) &&
	       !has_record(id, info->ublksrv_flags);
}

static bool is_held(uint32_t id)
{
	char path[32];
	snprintf(path, sizeof(path), "/dev/ublkc%u", id);
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	bool held = fd < 0 && errno == EBUSY;
	if (fd >= 0)
		close(fd);
	return held;
}

/*
 * With the lock of all attaches held: none of them is about to write the record. But those of a
 * container with another /run take another lock. Of theirs /dev/ublkcN is open soon after the
 * device is there, which is DEAD until it starts: who removes it looks again after settle_ms.
 */
static bool is_leftover(struct cow_ctrl *ctrl, uint32_t id, unsigned settle_ms)
{
	struct ub_dev_info info;
	for (unsigned ms = 0;; ms += POLL_MS) {
		if (cow_ctrl_get_info(ctrl, id, &info) ||
		    !cow_device_is_cookie(info.ublksrv_flags) || has_record(id, info.ublksrv_flags))
			return false;
		if (info.state == UB_S_DEV_DEAD && ms >= settle_ms)
			return !settle_ms || !is_held(id);
		/* Alive: of a container with another /run. Or the kernel has not noticed yet. */
		if (info.state == UB_S_DEV_QUIESCED ||
		    (info.state == UB_S_DEV_LIVE &&
		     (!is_gone(info.ublksrv_pid) || ms >= STOP_WAIT_MS)))
			return false;
		sleep_poll();
	}
}

static bool is_to_be_listed(struct cow_ctrl *ctrl, uint32_t id)
{
	struct ub_dev_info info;
	return is_leftover(ctrl, id, 0) || waits_for_daemon(ctrl, id, &info);
}

static bool is_to_be_removed(struct cow_ctrl *ctrl, uint32_t id)
{
	return is_leftover(ctrl, id, SETTLE_MS);
}

static int find_those(struct cow_ctrl *ctrl, uint32_t *ids, int max,
		      bool (*is_wanted)(struct cow_ctrl *ctrl, uint32_t id))
{
	DIR *d = opendir("/sys/class/ublk-char");
	struct dirent *e;
	uint64_t id;
	int nr = 0;
	if (!d)
		return 0;
	while (nr < max && (e = readdir(d)))
		if (!strncmp(e->d_name, "ublkc", 5) &&
		    cow_number_parse(e->d_name + 5, COW_MAX_DEVICE_ID, &id) &&
		    is_wanted(ctrl, (uint32_t)id))
			ids[nr++] = (uint32_t)id;
	closedir(d);
	return nr;
}

static int find(struct cow_ctrl *ctrl, uint32_t *ids, int max)
{
	return find_those(ctrl, ids, max, is_to_be_listed);
}

/* Calls use() with a control device while no attach is under way; -errno if that cannot be had. */
static int with_lock(unsigned wait_ms, int (*use)(struct cow_ctrl *ctrl, uint32_t *ids, int max),
		     uint32_t *ids, int max)
{
	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	int lock = lock_attaches(wait_ms);
	if (lock < 0)
		return lock;
	int ret = cow_ctrl_open(&ctrl, &err);
	if (!ret) {
		ret = use(&ctrl, ids, max);
		cow_ctrl_close(&ctrl);
	}
	close(lock);
	return ret;
}

int cow_leftover_find(uint32_t *ids, int max)
{
	int nr = with_lock(0, find, ids, max);
	return nr < 0 ? 0 : nr;
}

static void remove_one(struct cow_ctrl *ctrl, uint32_t id)
{
	int ret = cow_ctrl_delete(ctrl, id, DELETE_WAIT_MS);
	if (ret && ret != -ENODEV) {
		cow_cmd_fail("/dev/ublkb%u: cannot delete: %s", id, strerror(-ret));
		return;
	}
	cow_record_clear(id); /* with the lock of all attaches held */
	fprintf(stderr,
		"cowblk: /dev/ublkb%u: its daemon had died while attaching: removed what it "
		"left\n",
		id);
}

static int remove_it(struct cow_ctrl *ctrl, uint32_t *id, int max)
{
	if (!is_to_be_removed(ctrl, *id))
		return 0;
	remove_one(ctrl, *id);
	return 1;
}

bool cow_leftover_remove(uint32_t id)
{
	return with_lock(LOCK_WAIT_MS, remove_it, &id, 1) > 0;
}

static int find_waiting(struct cow_ctrl *ctrl, uint32_t *id, int max)
{
	struct ub_dev_info info;
	return waits_for_daemon(ctrl, *id, &info);
}

bool cow_leftover_waits(uint32_t id)
{
	return with_lock(LOCK_WAIT_MS, find_waiting, &id, 1) > 0;
}

static int force_it(struct cow_ctrl *ctrl, uint32_t *id, int max)
{
	struct ub_dev_info info;
	if (!waits_for_daemon(ctrl, *id, &info))
		return -ENODEV;
	struct cow_record record = { .id = *id, .cookie = info.ublksrv_flags };
	int ret = take_away_in_time(&record);
	if (!ret)
		cow_record_clear(*id);
	return ret;
}

int cow_leftover_force(uint32_t id)
{
	int ret = with_lock(LOCK_WAIT_MS, force_it, &id, 1);
	if (ret)
		return cow_cmd_fail("/dev/ublkb%u: cannot be taken away: %s", id, strerror(-ret));
	fprintf(stderr,
		"cowblk: /dev/ublkb%u: its daemon had died, and nobody replaced it: what was not "
		"flushed is lost\n",
		id);
	return 0;
}

static int remove_all(struct cow_ctrl *ctrl, uint32_t *ids, int max)
{
	int nr = find_those(ctrl, ids, max, is_to_be_removed);
	for (int i = 0; i < nr; i++)
		remove_one(ctrl, ids[i]);
	return nr;
}

/* ---- before an attach ---- */

/* Of a daemon that was killed between making one and leaving it nameless (sandbox.c). */
static void remove_empty_roots(void)
{
	DIR *d = opendir(COW_RUN_DIR);
	struct dirent *e;
	struct stat st;
	if (!d)
		return;
	while ((e = readdir(d)))
		if (!strncmp(e->d_name, "empty-", 6) &&
		    !fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) &&
		    time(NULL) - st.st_mtime > EMPTY_LIMIT_S)
			unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
	closedir(d);
}

static void clear_dead(uint32_t id)
{
	struct cow_record record;
	if (!cow_control_is_dead(id) || cow_record_read(id, &record))
		return;
	COW_IGNORE(cow_leftover_clear(&record));
	cow_record_fini(&record);
}

/* The kernel keeps what is left of a device, and its id, until its last user has let go. */
static int check_free(uint32_t id)
{
	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	struct ub_dev_info info;
	char disk[24], who[256] = "it is open somewhere";
	if (cow_ctrl_open(&ctrl, &err))
		return 0; /* which the attach tells better */
	bool left = !cow_ctrl_get_info(&ctrl, id, &info) && info.state == UB_S_DEV_DEAD &&
		    cow_device_is_cookie(info.ublksrv_flags);
	cow_ctrl_close(&ctrl);
	if (!left)
		return 0;
	snprintf(disk, sizeof(disk), "ublkb%u", id);
	cow_busy_find_everywhere(disk, who, sizeof(who));
	return cow_cmd_fail(
		"--id %u: the daemon of /dev/%s died, and what is left of the device is "
		"in use: %s: unmount or close it first",
		id, disk, who);
}

int cow_leftover_make_way(const char *image, uint32_t id)
{
	static uint32_t ids[COW_MAX_DEVICES];
	if (geteuid())
		return 0;
	remove_empty_roots();
	with_lock(LOCK_WAIT_MS, remove_all, ids, COW_MAX_DEVICES);
	int nr = cow_target_image(image, ids, COW_MAX_DEVICES);
	for (int i = 0; i < nr; i++)
		clear_dead(ids[i]);
	if (id == UINT32_MAX)
		return 0;
	clear_dead(id);
	return check_free(id);
}
