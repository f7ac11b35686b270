/* SPDX-License-Identifier: MIT */
/* See supervise.h. In this order: the children; the limit; the end; what comes next. */
#include "daemon/server/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/control/control.h"
#include "daemon/control/record.h"
#include "daemon/device/ctrl.h"
#include "daemon/device/harden.h"
#include "daemon/device/sandbox.h"
#include "daemon/server/handover.h"
#include "daemon/server/report.h"
#include "engine/base/log.h"
#include "engine/host/system.h"
#include "engine/loop/loop_uring.h"

/* As many deaths within so long are one too many. */
#define MOST_DEATHS 5u
#define DEATHS_MS 60000u
/* Doubles with each failure in a row. */
#define FIRST_PAUSE_MS 10u
/* The last of them 5 s apart. */
#define MOST_FAILURES 70u
#define IO_WORD_AFTER_MS 5000
#define CLOSE_DEPTH 32u
#define MAX_FILES (2u * COW_MAX_BACKING_DEPTH)
/* Who looks for leftovers is quick. */
#define LOCK_WAIT_MS 30000u
/* For the kernel to take a device away that is nobody's yet. */
#define REMOVE_LIMIT_MS 20000u
#define POLL_MS 10u

/* ---- the children ---- */

struct supervisor {
	struct cow_server_config config; /* of the next child */
	int memory;			 /* memfd */
	int signal_fd;
	int lock;	/* says that we are there; or -1 */
	bool is_to_end; /* a SIGTERM came, which a daemon that cannot begin does not hear */
	struct cow_kept_file files[MAX_FILES];
	size_t nr_files;
	bool incomplete;	     /* not all that it had could be taken */
	struct cow_device_left left; /* once it is live */
	bool live;		     /* the daemon has said so */
	pid_t child;
	int rings;  /* hangs up when nothing of the child's I/O is left in the kernel */
	int socket; /* to the child; -1: it has told all */
	uint64_t deaths[MOST_DEATHS];
	unsigned nr_deaths, nr_failures;
};

static int open_signals(struct supervisor *s)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return s->signal_fd < 0 ? -errno : 0;
}

/* Its signals stay blocked until it listens to them. */
static void become_daemon(struct supervisor *s, int socket)
{
	prctl(PR_SET_NAME, "cowblk");
	close(s->signal_fd);
	if (s->lock >= 0)
		close(s->lock);
	s->config.supervisor_fd = socket;
	_exit(cow_server_run(&s->config));
}

static void close_both(const int fds[2])
{
	close(fds[0]);
	close(fds[1]);
}

static int fork_child(struct supervisor *s, const int fds[2], const int rings[2])
{
	fflush(NULL);
	s->child = fork();
	if (!s->child) {
		close(fds[0]);
		close(rings[0]);
		cow_uring_hold(rings[1]);
		become_daemon(s, fds[1]);
	}
	if (s->child < 0)
		return -errno;
	close(fds[1]);
	close(rings[1]);
	s->socket = fds[0];
	s->rings = rings[0];
	return 0;
}

static int start_child(struct supervisor *s)
{
	int fds[2], rings[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return -errno;
	int ret = pipe2(rings, O_CLOEXEC) ? -errno : 0;
	if (ret) {
		close_both(fds);
		return ret;
	}
	ret = fork_child(s, fds, rings);
	if (ret) {
		close_both(fds);
		close_both(rings);
	}
	return ret;
}

/* Before anybody hears that it is over: who unmounts their file system then is not to be in its way. */
static void close_files(struct supervisor *s)
{
	for (size_t i = 0; i < s->nr_files; i++)
		close(s->files[i].fd);
	s->nr_files = 0;
}

static void end_news(struct supervisor *s)
{
	close(s->socket);
	s->socket = -1;
}

/*
 * The daemon has another user by now, and not even root may send that a signal without CAP_KILL, which a
 * unit or a container may not give: then as that user, in a process of its own.
 */
static void send_signal(struct supervisor *s, int signo)
{
	struct cow_sandbox sandbox;
	if (!kill(s->child, signo) || errno != EPERM)
		return;
	pid_t pid = fork();
	if (!pid) {
		cow_sandbox_prepare(&sandbox);
		_exit(cow_sandbox_become_user(&sandbox) || kill(s->child, signo));
	}
	int status = -1;
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		cow_log(COW_LOG_ERR,
			"%s: signal %d does not reach its daemon (process %d): not permitted: it "
			"needs CAP_KILL",
			s->config.image_path, signo, (int)s->child);
}

/* Who looks between two daemons would take the device for dead. */
static void lock_life(struct supervisor *s)
{
	s->lock = cow_record_supervise(s->left.id);
	if (s->lock < 0)
		cow_log(COW_LOG_WARNING,
			COW_RUN_DIR
			"/ublkb%u.life: %s: should its daemon die, `cowblk list` will call the "
			"device dead until another one serves it",
			s->left.id, strerror(-s->lock));
}

/* The caller has gone: then so does the device. */
static void announce(struct supervisor *s)
{
	char path[24];
	snprintf(path, sizeof(path), "/dev/ublkb%u", s->left.id);
	cow_report_systemd("READY=1");
	if (!s->config.announce(s->config.ctx, path, NULL))
		send_signal(s, SIGTERM);
	else if (!s->config.foreground)
		cow_report_leave_terminal(s->left.id, COW_REPORT_LOG_GOES_ON);
}

/* From here on it is ours to keep the device, and the caller's to have its terminal back. */
static void go_live(struct supervisor *s, const struct cow_news *news)
{
	s->live = true;
	s->left = (struct cow_device_left){ news->id, news->cookie };
	s->config.device.left = &s->left;
	s->config.device.open.kept = s->files;
	s->config.device.open.nr_kept = s->nr_files;
	s->config.device.open.nr_backing_roots = 0;
	s->config.device.open.nr_data_roots = 0;
	s->config.is_successor = true;
	lock_life(s);
	announce(s);
	/* What writes back may need us to go on. */
	cow_harden_memory();
}

static void hear_live(struct supervisor *s, const struct cow_news *news)
{
	end_news(s);
	if (s->live)
		return;
	if (!s->incomplete) {
		go_live(s, news);
		return;
	}
	s->config.announce(s->config.ctx, NULL, "cannot keep the image's files for recovery");
	send_signal(s, SIGTERM);
}

static void keep_file(struct supervisor *s, int fd, const char *name)
{
	char *path = fd >= 0 && s->nr_files < MAX_FILES ? strdup(name) : NULL;
	if (path) {
		s->files[s->nr_files++] = (struct cow_kept_file){ fd, path };
		return;
	}
	s->incomplete = true;
	if (fd >= 0)
		close(fd);
}

static void hear(struct supervisor *s)
{
	static struct cow_news news;
	int fd;
	if (!cow_handover_receive(s->socket, &news, &fd)) {
		end_news(s);
		return;
	}
	if (news.kind == COW_NEWS_LIVE) {
		hear_live(s, &news);
		return;
	}
	if (!s->live)
		keep_file(s, fd, news.path);
	else if (fd >= 0)
		close(fd); /* we have it */
}

/* A terminal's signals come to the daemon as well. */
static void pass_on(struct supervisor *s)
{
	struct signalfd_siginfo info;
	while (read(s->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		s->is_to_end |= info.ssi_signo == SIGTERM;
		if (info.ssi_signo != SIGCHLD && info.ssi_code != SI_KERNEL)
			send_signal(s, (int)info.ssi_signo);
	}
}

/*
 * The kernel goes on with direct I/O that a killed process had begun, for as long as the host takes. It
 * would come over what the next daemon writes.
 */
static void wait_io(const struct supervisor *s)
{
	struct pollfd p = { .fd = s->rings };
	while (poll(&p, 1, IO_WORD_AFTER_MS) <= 0)
		cow_log(COW_LOG_WARNING,
			"%s: waiting for the host to end what the daemon that died had "
			"begun",
			s->config.image_path);
	close(s->rings);
}

/* Its wait status. All its I/O has ended then. */
static int wait_child(struct supervisor *s)
{
	int status;
	while (waitpid(s->child, &status, WNOHANG) != s->child) {
		struct pollfd p[] = { { .fd = s->signal_fd, .events = POLLIN },
				      { .fd = s->socket, .events = POLLIN } };
		if (poll(p, s->socket >= 0 ? 2 : 1, -1) <= 0)
			continue;
		if (s->socket >= 0 && p[1].revents)
			hear(s);
		if (p[0].revents)
			pass_on(s);
	}
	while (s->socket >= 0)
		hear(s);
	wait_io(s);
	return status;
}

/* ---- the limit ---- */

static uint64_t now_ms(void)
{
	return cow_control_now_ms();
}

static void sleep_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 },
		  NULL);
}

/* False: too many, too fast. */
static bool may_go_on(struct supervisor *s)
{
	uint64_t now = now_ms(), *oldest = &s->deaths[s->nr_deaths % MOST_DEATHS];
	bool too_many = s->nr_deaths >= MOST_DEATHS && now - *oldest < DEATHS_MS;
	*oldest = now;
	s->nr_deaths++;
	return !too_many;
}

/* What fails now (no memory, no room on the host) may work later: then, for minutes. */
static void pause_after_failure(const struct supervisor *s)
{
	unsigned ms = FIRST_PAUSE_MS << (s->nr_failures < 9 ? s->nr_failures : 9);
	sleep_ms(ms);
}

enum left { LEFT, GONE, NOT_KNOWN };

/* A detach by force stops the device, then kills the daemon. */
static enum left look(const struct supervisor *s)
{
	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	struct ub_dev_info info;
	if (cow_ctrl_open(&ctrl, &err))
		return NOT_KNOWN;
	int ret = cow_ctrl_get_info(&ctrl, s->left.id, &info);
	cow_ctrl_close(&ctrl);
	return !ret && info.ublksrv_flags == s->left.cookie && info.state != UB_S_DEV_DEAD ? LEFT
											   : GONE;
}

/* ---- the end ---- */

/*
 * Nobody serves it any more: what waits for it fails, instead of waiting for ever. Record and log stay:
 * `cowblk list` calls it dead, and a detach says what that means.
 */
static void fail_device(const struct supervisor *s)
{
	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	struct ub_dev_info info;
	if (!s->live || cow_ctrl_open(&ctrl, &err))
		return;
	if (!cow_ctrl_get_info(&ctrl, s->left.id, &info) && info.ublksrv_flags == s->left.cookie)
		COW_IGNORE(cow_ctrl_stop(&ctrl, s->left.id));
	cow_ctrl_close(&ctrl);
}

static int lock_attaches(void)
{
	int fd = cow_record_lock(COW_RECORD_LOCK_ONE);
	for (unsigned ms = 0; fd == -EWOULDBLOCK && ms < LOCK_WAIT_MS; ms += POLL_MS) {
		sleep_ms(POLL_MS);
		fd = cow_record_lock(COW_RECORD_LOCK_ONE);
	}
	return fd;
}

/* The daemon's keeper may be about to start it: until it is gone. 0: it is. */
static int take_away(struct cow_ctrl *ctrl, const struct supervisor *s)
{
	uint64_t cookie = s->config.device.cookie;
	uint32_t id;
	int ret = 0;
	for (unsigned ms = 0; ms < REMOVE_LIMIT_MS; ms += POLL_MS) {
		if (cow_ctrl_find(ctrl, cookie, &id))
			return 0;
		if (s->live)
			cow_record_remove(id, cookie);
		else
			cow_record_clear(id);
		ret = cow_ctrl_stop(ctrl, id);
		if (!ret)
			ret = cow_ctrl_delete(ctrl, id, POLL_MS);
		sleep_ms(POLL_MS);
	}
	return ret ? ret : -ETIMEDOUT;
}

/*
 * And what stands for it in COW_RUN_DIR, with the lock of an attach: as long as it is there the id is
 * ours.
 */
static int remove_device(const struct supervisor *s)
{
	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	if (cow_ctrl_open(&ctrl, &err))
		return err.code;
	int lock = lock_attaches();
	int ret = take_away(&ctrl, s);
	if (lock >= 0)
		close(lock);
	cow_ctrl_close(&ctrl);
	return ret;
}

/*
 * A daemon that was killed while it attached may have left a device, started or not, and some of its
 * record. Nobody was told of it: it goes, before anybody hears that there is none. One that ended by
 * itself has said why.
 */
static int end_unborn(const struct supervisor *s, int status)
{
	char text[160] = "";
	int ret = remove_device(s);
	if (WIFSIGNALED(status))
		snprintf(text, sizeof(text), "its daemon was killed while it attached (signal %d)",
			 WTERMSIG(status));
	if (ret)
		snprintf(text + strlen(text), sizeof(text) - strlen(text),
			 "%swhat is left of the device cannot be removed: %s: see `cowblk list`",
			 text[0] ? ": " : "", strerror(-ret));
	if (text[0])
		s->config.announce(s->config.ctx, NULL, text);
	return WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 1;
}

/* ---- what comes next ---- */

static void say_given_up(const struct supervisor *s, const char *why)
{
	cow_log(COW_LOG_ERR,
		"/dev/ublkb%u: %s: given up: the device goes, and what was not flushed may be "
		"lost: "
		"run `cowblk check` on %s",
		s->left.id, why, s->config.image_path);
}

/* Another try after one that could not begin. */
static bool try_again(struct supervisor *s)
{
	if (s->nr_failures++ < MOST_FAILURES) {
		pause_after_failure(s);
		return true;
	}
	say_given_up(s, "no daemon could begin for some minutes");
	return false;
}

static bool replace_killed(struct supervisor *s, int signo)
{
	if (!may_go_on(s)) {
		say_given_up(s, "six daemons were killed within a minute");
		return false;
	}
	cow_log(COW_LOG_WARNING,
		"/dev/ublkb%u: its daemon (process %d) was killed by signal %d: starting another",
		s->left.id, (int)s->child, signo);
	s->nr_failures = 0;
	return true;
}

/*
 * The device had been stopped already when its daemon was killed, or was between two daemons: nobody serves the image any more, but
 * what was in memory belongs into it; then nothing is left to be said of it, or to be taken away. In
 * a child: it reads what a hostile image may have made.
 */
static void close_image(const struct supervisor *s)
{
	struct cow_error err = { 0 };
	struct cow_loop *loop;
	struct cow_image *image;
	if (cow_loop_uring_new(CLOSE_DEPTH, &loop))
		_exit(1);
	cow_loop_enter(loop);
	int ret = cow_image_open(cow_host_system(), loop, s->config.device.image_path,
				 &s->config.device.open, &image, &err);
	if (!ret)
		ret = cow_image_close(image, loop, &err);
	if (ret)
		cow_log(COW_LOG_ERR, "%s: %s: run `cowblk check` on it", s->config.image_path,
			err.text);
	_exit(ret ? 1 : 0);
}

static void finish_close(const struct supervisor *s)
{
	int status = -1;
	cow_log(COW_LOG_WARNING, "/dev/ublkb%u: was stopped, and no daemon closes %s: closing it",
		s->left.id, s->config.image_path);
	pid_t child = fork();
	if (!child)
		close_image(s);
	if (child > 0 && waitpid(child, &status, 0) == child && !status)
		COW_IGNORE(remove_device(s));
}

/* After a child has ended: is there to be another? */
static bool is_next(struct supervisor *s, int status)
{
	bool killed = WIFSIGNALED(status);
	bool failed = !killed && WEXITSTATUS(status) == COW_SERVER_TRY_AGAIN;
	if (!killed && !failed)
		return false;
	enum left left = look(s);
	if (left == GONE) {
		finish_close(s);
		return false;
	}
	return failed || left == NOT_KNOWN ? try_again(s) : replace_killed(s, WTERMSIG(status));
}

static int run_children(struct supervisor *s)
{
	for (;;) {
		int ret = start_child(s), status = W_EXITCODE(COW_SERVER_TRY_AGAIN, 0);
		if (!ret && s->is_to_end)
			send_signal(s, SIGTERM);
		if (!ret)
			status = wait_child(s);
		else
			cow_log(COW_LOG_ERR, "cannot start a daemon: %s", strerror(-ret));
		if (!s->live)
			return end_unborn(s, status);
		if (!is_next(s, status))
			return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
		s->config.died_ms = now_ms();
	}
}

int cow_supervise_run(const struct cow_server_config *config)
{
	static struct supervisor s;
	s = (struct supervisor){ .config = *config, .lock = -1, .socket = -1 };
	prctl(PR_SET_NAME, "cowblk-super");
	s.memory = memfd_create("cowblk", MFD_CLOEXEC);
	if (!s.config.device.cookie)
		s.config.device.cookie = cow_device_new_cookie();
	int ret = s.memory < 0 ? -errno : s.config.device.cookie ? open_signals(&s) : -EIO;
	if (ret) {
		char text[128];
		snprintf(text, sizeof(text), "cannot keep memory for recovery: %s", strerror(-ret));
		config->announce(config->ctx, NULL, text);
		return 1;
	}
	s.config.device.open.outlive_fd = s.memory;
	s.config.device.recovery = true;
	s.config.device.supervisor = getpid();
	int status = run_children(&s);
	fail_device(&s);
	close_files(&s);
	if (s.lock >= 0)
		cow_record_supervise_end(s.left.id, s.lock);
	return status;
}
