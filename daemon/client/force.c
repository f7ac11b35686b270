/* SPDX-License-Identifier: MIT */
/*
 * See force.h. In this order: whose process it is; STOP_DEV, which may wait for requests that the
 * daemon has; the steps.
 */
#include "daemon/client/force.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/options/cmd.h"
#include "daemon/control/control.h"
#include "daemon/device/ctrl.h"

/* For a stop that needs nothing of the daemon: no request is in flight. */
#define STOP_LIMIT_MS 2000
/* For a daemon that goes on after SIGCONT, to close its image. */
#define CLOSE_LIMIT_MS 10000
/* For the kernel to end a killed process, whose host may be stuck. */
#define KILL_LIMIT_MS 20000
#define DELETE_WAIT_MS 2000
/* For a daemon that answers, to close its image. */
#define FORCED_CLOSE_LIMIT_MS 60000u
#define POLL_MS 50u

/* ---- whose process it is ---- */

static bool holds(const char *fds, const struct stat *node)
{
	DIR *d = opendir(fds);
	struct dirent *e;
	bool found = false;
	if (!d)
		return false;
	while (!found && (e = readdir(d))) {
		struct stat st;
		found = !fstatat(dirfd(d), e->d_name, &st, 0) && S_ISCHR(st.st_mode) &&
			st.st_rdev == node->st_rdev;
	}
	closedir(d);
	return found;
}

static bool is_still_theirs(struct cow_ctrl *ctrl, const struct cow_record *record)
{
	struct ub_dev_info info;
	return !cow_ctrl_get_info(ctrl, record->id, &info) && info.ublksrv_flags == record->cookie;
}

/* Only the daemon of a device has /dev/ublkcN open: it opens once. */
static bool is_its_daemon(struct cow_ctrl *ctrl, const struct cow_record *record)
{
	char path[64];
	struct stat node;
	if (!is_still_theirs(ctrl, record))
		return false;
	snprintf(path, sizeof(path), "/dev/ublkc%u", record->id);
	if (stat(path, &node) || !S_ISCHR(node.st_mode))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)record->pid);
	return holds(path, &node);
}

static bool has_ended(int pidfd, int limit_ms)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	return poll(&p, 1, limit_ms) > 0;
}

/* A pidfd: the number may be another's at any time. -errno; -ESRCH: gone, or not its daemon. */
static int open_daemon(struct cow_ctrl *ctrl, const struct cow_record *record)
{
	int pidfd = pidfd_open(record->pid, 0);
	if (pidfd < 0)
		return -errno;
	if (is_its_daemon(ctrl, record) && !has_ended(pidfd, 0))
		return pidfd;
	close(pidfd);
	return -ESRCH;
}

/* ---- STOP_DEV, which may wait for requests that the daemon has ---- */

struct stop {
	struct cow_ctrl ctrl;
	uint32_t id;
	pthread_t thread;
};

static void *run_stop(void *arg)
{
	struct stop *stop = arg;
	COW_IGNORE(cow_ctrl_stop(&stop->ctrl, stop->id));
	return NULL;
}

static int start_stop(struct stop *stop, uint32_t id, struct cow_error *err)
{
	stop->id = id;
	int ret = cow_ctrl_open(&stop->ctrl, err);
	if (ret)
		return ret;
	ret = -pthread_create(&stop->thread, NULL, run_stop, stop);
	if (!ret)
		return 0;
	cow_ctrl_close(&stop->ctrl);
	return cow_error_set(err, ret, "cannot start a thread: %s", strerror(-ret));
}

static bool has_stopped(struct stop *stop, int limit_ms)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += limit_ms / 1000;
	return !pthread_clockjoin_np(stop->thread, NULL, CLOCK_MONOTONIC, &until);
}

/* ---- the steps ---- */

static void say(const struct cow_record *record, const char *what)
{
	fprintf(stderr, "cowblk: /dev/ublkb%u: process %d: %s\n", record->id, (int)record->pid,
		what);
}

/* True when it has ended; *killed: not by itself. */
static bool end_daemon(const struct cow_record *record, int pidfd, bool *killed)
{
	*killed = false;
	pidfd_send_signal(pidfd, SIGCONT, NULL, 0);
	if (has_ended(pidfd, CLOSE_LIMIT_MS))
		return true;
	say(record, "does not end: killing it");
	*killed = true;
	if (pidfd_send_signal(pidfd, SIGKILL, NULL, 0) && errno != ESRCH)
		return false;
	return has_ended(pidfd, KILL_LIMIT_MS);
}

static int finish(struct cow_ctrl *ctrl, const struct cow_record *record, bool killed)
{
	int ret = 0;
	if (is_still_theirs(ctrl, record))
		ret = cow_ctrl_delete(ctrl, record->id, DELETE_WAIT_MS);
	if (ret && ret != -ENODEV)
		return cow_cmd_fail("/dev/ublkb%u: cannot delete: %s", record->id, strerror(-ret));
	cow_record_remove(record->id, record->cookie);
	if (killed)
		fprintf(stderr,
			"cowblk: /dev/ublkb%u: detached: what was not flushed is lost: run "
			"`cowblk check %s`\n",
			record->id, record->image);
	else
		say(record, "went on, and has closed the image");
	return 0;
}

static int take_away(struct cow_ctrl *ctrl, const struct cow_record *record, int pidfd)
{
	struct cow_error err = { 0 };
	struct stop stop;
	bool killed;
	say(record, "does not answer: stopping the device");
	if (start_stop(&stop, record->id, &err))
		return cow_cmd_fail("%s", err.text);
	bool stopped = has_stopped(&stop, STOP_LIMIT_MS);
	bool ended = end_daemon(record, pidfd, &killed);
	if (!stopped && !has_stopped(&stop, KILL_LIMIT_MS)) {
		/* The thread is stuck in the kernel: leaving it would wait for it. */
		cow_cmd_fail("/dev/ublkb%u: the kernel does not stop it: see its log", record->id);
		_exit(1);
	}
	cow_ctrl_close(&stop.ctrl);
	if (!ended)
		return cow_cmd_fail("/dev/ublkb%u: process %d does not end even when killed: it "
				    "waits for its host",
				    record->id, (int)record->pid);
	return finish(ctrl, record, killed);
}

bool cow_force_is_alive(const struct cow_record *record)
{
	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	struct ub_dev_info info;
	if (cow_ctrl_open(&ctrl, &err))
		return false;
	bool alive = is_its_daemon(&ctrl, record) && !cow_ctrl_get_info(&ctrl, record->id, &info) &&
		     info.state == UB_S_DEV_LIVE;
	cow_ctrl_close(&ctrl);
	return alive;
}

int cow_force_detach(const struct cow_record *record)
{
	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	if (cow_ctrl_open(&ctrl, &err))
		return cow_cmd_fail("%s", err.text);
	int pidfd = open_daemon(&ctrl, record), status;
	if (pidfd < 0 && cow_record_is_supervised(record->id)) {
		say(record, "is dead, and no other has begun: stopping the device");
		status = cow_force_stop(record);
	} else if (pidfd < 0) {
		status = cow_cmd_fail("/dev/ublkb%u: process %d is not its daemon any more, or may "
				      "not be seen from here: left alone",
				      record->id, (int)record->pid);
	} else {
		status = take_away(&ctrl, record, pidfd);
		close(pidfd);
	}
	cow_ctrl_close(&ctrl);
	return status;
}

static bool wait_dead(uint32_t id, unsigned limit_ms)
{
	for (unsigned ms = 0; ms < limit_ms; ms += POLL_MS) {
		if (cow_control_is_dead(id))
			return true;
		nanosleep(&(struct timespec){ .tv_nsec = POLL_MS * 1000000l }, NULL);
	}
	return false;
}

int cow_force_stop(const struct cow_record *record)
{
	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	uint32_t id = record->id;
	if (cow_ctrl_open(&ctrl, &err))
		return cow_cmd_fail("%s", err.text);
	if (!is_still_theirs(&ctrl, record)) { /* it is gone, with an error that was told */
		cow_ctrl_close(&ctrl);
		return 1;
	}
	int ret = cow_ctrl_stop(&ctrl, id);
	bool dead = !ret && wait_dead(id, FORCED_CLOSE_LIMIT_MS);
	if (dead && is_still_theirs(&ctrl, record))
		ret = cow_ctrl_delete(&ctrl, id, DELETE_WAIT_MS);
	cow_ctrl_close(&ctrl);
	if (ret)
		return cow_cmd_fail("/dev/ublkb%u: cannot stop: %s", id, strerror(-ret));
	if (!dead)
		return cow_cmd_fail("/dev/ublkb%u: stopped, but its daemon (process %d) is still "
				    "closing the image: detach again later",
				    id, (int)record->pid);
	cow_record_remove(id, record->cookie);
	return 0;
}
