/* SPDX-License-Identifier: MIT */
/* See supervise.h. In this order: the kernel; the children; the limit; the end. */
#include "daemon/server/supervise.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/control/control.h"
#include "daemon/control/record.h"
#include "daemon/device/ctrl.h"
#include "daemon/server/handover.h"
#include "daemon/server/report.h"
#include "engine/base/log.h"
#include "engine/base/number.h"

/* Before 7.1 the kernel loses requests, or hangs, when a device with recovery is torn down. */
#define KERNEL_MAJOR 7
#define KERNEL_MINOR 1
/* As many deaths within so long are one too many. */
#define MOST_DEATHS 5u
#define DEATHS_MS 60000u
/* Doubles with each death in a row. */
#define FIRST_PAUSE_MS 10u
#define MAX_FILES (2u * COW_MAX_BACKING_DEPTH)

/* ---- the kernel ---- */

/* The number that text begins with; *text: behind it and a dot. */
static uint64_t take_number(const char **text)
{
	char digits[8] = "";
	uint64_t v = 0;
	size_t n = strspn(*text, "0123456789");
	if (n < sizeof(digits))
		memcpy(digits, *text, n);
	if (!cow_number_parse(digits, UINT32_MAX, &v))
		return 0;
	*text += n + ((*text)[n] == '.');
	return v;
}

bool cow_supervise_is_possible(void)
{
	struct utsname u;
	if (uname(&u))
		return false;
	const char *text = u.release;
	uint64_t major = take_number(&text), minor = take_number(&text);
	return major > KERNEL_MAJOR || (major == KERNEL_MAJOR && minor >= KERNEL_MINOR);
}

/* ---- the children ---- */

struct supervisor {
	struct cow_server_config config; /* of the next child */
	int memory;			 /* memfd */
	int signal_fd;
	int lock; /* says that we are there; or -1 */
	struct cow_kept_file files[MAX_FILES];
	size_t nr_files;
	struct cow_device_left left; /* once it is live */
	bool live;
	pid_t child;
	int socket; /* to the child; -1: it has told all */
	uint64_t deaths[MOST_DEATHS];
	unsigned nr_deaths, in_a_row;
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
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return s->signal_fd < 0 ? -errno : 0;
}

static void become_daemon(struct supervisor *s, int socket)
{
	sigset_t set;
	sigemptyset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);
	close(s->signal_fd);
	if (s->lock >= 0)
		close(s->lock);
	s->config.supervisor_fd = socket;
	_exit(cow_server_run(&s->config));
}

static int start_child(struct supervisor *s)
{
	int fds[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return -errno;
	fflush(NULL);
	s->child = fork();
	if (!s->child) {
		close(fds[0]);
		become_daemon(s, fds[1]);
	}
	int ret = s->child < 0 ? -errno : 0;
	close(fds[1]);
	s->socket = fds[0];
	if (ret)
		close(fds[0]);
	else if (s->config.forked)
		s->config.forked(s->config.ctx);
	s->config.forked = NULL;
	return ret;
}

static void end_news(struct supervisor *s)
{
	close(s->socket);
	s->socket = -1;
}

/* From here on it is ours to keep the device, and the caller's to have its terminal back. */
static void go_live(struct supervisor *s, const struct cow_news *news)
{
	bool first = !s->live;
	s->live = true;
	s->left = (struct cow_device_left){ news->id, news->cookie };
	end_news(s);
	if (!first)
		return;
	s->config.device.left = &s->left;
	s->config.device.open.kept = s->files;
	s->config.device.open.nr_kept = s->nr_files;
	s->config.device.open.nr_backing_roots = 0;
	s->config.device.open.nr_data_roots = 0;
	s->config.is_successor = true;
	s->lock = cow_record_supervise(s->left.id);
	cow_report_systemd("READY=1");
	if (!s->config.foreground)
		cow_report_leave_terminal(s->left.id, COW_REPORT_LOG_GOES_ON);
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		cow_log(COW_LOG_WARNING, "mlockall: %s", strerror(errno));
}

static void hear(struct supervisor *s)
{
	static struct cow_news news;
	int fd;
	if (!cow_handover_receive(s->socket, &news, &fd)) {
		end_news(s);
		return;
	}
	if (news.kind == COW_NEWS_LIVE && fd < 0) {
		go_live(s, &news);
		return;
	}
	char *path = fd >= 0 && !s->live && s->nr_files < MAX_FILES ? strdup(news.path) : NULL;
	if (path)
		s->files[s->nr_files++] = (struct cow_kept_file){ fd, path };
	else if (fd >= 0)
		close(fd);
}

/* A terminal's signals come to the daemon as well. */
static void pass_on(struct supervisor *s)
{
	struct signalfd_siginfo info;
	while (read(s->signal_fd, &info, sizeof(info)) == sizeof(info))
		if (info.ssi_signo != SIGCHLD && info.ssi_code != SI_KERNEL)
			kill(s->child, (int)info.ssi_signo);
}

/* Its wait status. All its I/O has ended then: the kernel waits for that. */
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
	return status;
}

/* ---- the limit ---- */

static uint64_t now_ms(void)
{
	return cow_control_now_ms();
}

/* False: too many, too fast. */
static bool may_go_on(struct supervisor *s)
{
	uint64_t now = now_ms(), *oldest = &s->deaths[s->nr_deaths % MOST_DEATHS];
	bool too_many = s->nr_deaths >= MOST_DEATHS && now - *oldest < DEATHS_MS;
	const uint64_t last = s->nr_deaths ? s->deaths[(s->nr_deaths - 1) % MOST_DEATHS] : 0;
	s->in_a_row = s->nr_deaths && now - last < DEATHS_MS ? s->in_a_row + 1 : 0;
	*oldest = now;
	s->nr_deaths++;
	return !too_many;
}

static void pause_after_death(const struct supervisor *s)
{
	unsigned ms = FIRST_PAUSE_MS << (s->in_a_row < 8 ? s->in_a_row : 8);
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 },
		  NULL);
}

/* A detach by force stops the device, then kills the daemon. */
static bool is_left(const struct supervisor *s)
{
	struct cow_ctrl ctrl;
	struct cow_error err = { 0 };
	struct ub_dev_info info;
	if (cow_ctrl_open(&ctrl, &err))
		return false;
	int ret = cow_ctrl_get_info(&ctrl, s->left.id, &info);
	cow_ctrl_close(&ctrl);
	return !ret && info.ublksrv_flags == s->left.cookie && info.state != UB_S_DEV_DEAD;
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

static const char *how(int status, char text[48])
{
	if (WIFSIGNALED(status))
		snprintf(text, 48, "was killed by signal %d", WTERMSIG(status));
	else
		snprintf(text, 48, "could not begin");
	return text;
}

static bool replace(struct supervisor *s, int status)
{
	char text[48];
	bool died = WIFSIGNALED(status) || WEXITSTATUS(status) == COW_SERVER_TRY_AGAIN;
	if (!died || !s->live || !is_left(s))
		return false;
	if (!may_go_on(s)) {
		cow_log(COW_LOG_ERR,
			"/dev/ublkb%u: %u daemons died within %u s, the last one %s: given up: the "
			"device goes, and what was not flushed may be lost: run `cowblk check` on "
			"%s",
			s->left.id, MOST_DEATHS + 1, DEATHS_MS / 1000, how(status, text),
			s->config.image_path);
		return false;
	}
	cow_log(COW_LOG_WARNING, "/dev/ublkb%u: its daemon (process %d) %s: starting another",
		s->left.id, (int)s->child, how(status, text));
	pause_after_death(s);
	return true;
}

static int run_children(struct supervisor *s)
{
	for (;;) {
		int ret = start_child(s);
		if (ret) {
			cow_log(COW_LOG_ERR, "fork: %s", strerror(-ret));
			return 1;
		}
		int status = wait_child(s);
		if (!replace(s, status))
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
	int ret = s.memory < 0 ? -errno : open_signals(&s);
	if (ret) {
		char text[128];
		snprintf(text, sizeof(text), "cannot keep memory for recovery: %s", strerror(-ret));
		config->announce(config->ctx, NULL, text);
		return 1;
	}
	s.config.device.open.outlive_fd = s.memory;
	s.config.device.recovery = true;
	int status = run_children(&s);
	fail_device(&s);
	if (s.lock >= 0)
		cow_record_supervise_end(s.left.id, s.lock);
	return status;
}
