/* SPDX-License-Identifier: MIT */
/*
 * See keeper.h. In this order: in the keeper; the watch: a daemon has died that is to be replaced; beats: a
 * request may take as long as the host does; in the daemon.
 */
#include "daemon/device/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "daemon/device/ctrl.h"
#include "daemon/device/harden.h"
#include "daemon/holders/busy.h"
#include "daemon/holders/fsfreeze.h"
#include "engine/base/log.h"
#include "engine/base/mutex.h"

enum request_kind {
	SERVE,
	START,
	ARRANGE_PARTITIONS,
	STOP,
	TRY_STOP,
	DELETE,
	CLAIM,
	FLUSH,
	RELEASE,
	FIND_USER,
	WRITE_BACK,
};

/* systemd gives a service 90 s to end. */
#define WRITE_BACK_LIMIT_MS 30000
/* A keeper at work says so; one that says nothing for that long is stopped, or worse. */
#define BEAT_MS 1000
#define SILENCE_LIMIT_MS 10000
#define IO_TIMEOUT_MS 2000
/* Who waits for the end of a supervisor, or for a successor. */
#define WATCH_MS 1000
/* For the kernel to notice that a daemon has died. */
#define NOTICE_MS 50

struct request {
	enum request_kind kind;
	uint32_t id;		       /* SERVE */
	uint64_t cookie;	       /* SERVE */
	pid_t daemon;		       /* START, SERVE */
	pid_t supervisor;	       /* SERVE; 0: none */
	unsigned wait_ms;	       /* DELETE */
	enum cow_partitions_wish wish; /* ARRANGE_PARTITIONS */
};

struct answer {
	bool beat; /* not the answer yet */
	int ret;
	char text[512];
};

/* ---- in the keeper ---- */

struct duty {
	struct cow_keeper_hooks hooks;
	struct cow_ctrl ctrl;
	bool serves;
	uint32_t id;
	uint64_t cookie;
	int claim; /* the block device, open with O_EXCL; or -1 */
	/* if it is to outlive its daemon */
	bool watches;
	pid_t daemon;
	int supervisor;	      /* pidfd; -1: it had gone already */
	struct cow_ctrl last; /* for the watch */
};

/* The id may be another's by now, after somebody has deleted our device. */
static int prepare(struct duty *duty)
{
	struct ub_dev_info info;
	if (!duty->serves)
		return -EINVAL;
	int ret = cow_ctrl_get_info(&duty->ctrl, duty->id, &info);
	if (ret)
		return ret;
	return info.ublksrv_flags == duty->cookie ? 0 : -ESTALE;
}

/* The record first: from the delete on the id may be another's. */
static int delete_device(struct duty *duty, unsigned wait_ms)
{
	int ret = prepare(duty);
	if (duty->serves && duty->hooks.deleted)
		duty->hooks.deleted(duty->id, duty->cookie);
	return ret ? ret : cow_ctrl_delete(&duty->ctrl, duty->id, wait_ms);
}

static void release(struct duty *duty)
{
	if (duty->claim >= 0)
		close(duty->claim);
	duty->claim = -1;
}

static int claim(struct duty *duty)
{
	char path[32];
	if (prepare(duty))
		return -ENODEV;
	release(duty);
	snprintf(path, sizeof(path), "/dev/ublkb%u", duty->id);
	duty->claim = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	return duty->claim < 0 ? -errno : 0;
}

static int flush(const struct duty *duty)
{
	if (duty->claim < 0)
		return -EINVAL;
	return fsync(duty->claim) ? -errno : 0;
}

/*
 * Kernels before 6.15 learn only from an I/O's timeout that the daemon died with every tag of a queue
 * in its hands. To others the timeout means nothing.
 */
static void shorten_timeout(const char *disk)
{
	char path[64];
	snprintf(path, sizeof(path), "/sys/block/%s/queue/io_timeout", disk);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	dprintf(fd, "%d", IO_TIMEOUT_MS);
	close(fd);
}

static int arrange_partitions(struct duty *duty, enum cow_partitions_wish wish)
{
	char disk[24];
	int ret = prepare(duty);
	if (ret)
		return ret;
	snprintf(disk, sizeof(disk), "ublkb%u", duty->id);
	shorten_timeout(disk);
	return cow_partitions_arrange(disk, wish);
}

static int find_user(const struct duty *duty, char *text, size_t len)
{
	char disk[24];
	snprintf(disk, sizeof(disk), "ublkb%u", duty->id);
	return duty->serves && cow_busy_find_everywhere(disk, text, len) != COW_BUSY_NOBODY;
}

/* What is to be known of a look that found less than there may be. */
static char note[400];

static void take_note(const char *text)
{
	snprintf(note, sizeof(note), "%s", text);
}

static int write_back(const struct duty *duty, char *text, size_t len)
{
	struct cow_fsfreeze f;
	struct cow_error err = { 0 };
	char disk[24];
	if (!duty->serves)
		return -EINVAL;
	snprintf(disk, sizeof(disk), "ublkb%u", duty->id);
	note[0] = '\0';
	int ret = cow_fsfreeze_prepare(&f, disk, WRITE_BACK_LIMIT_MS, 0, 0, take_note, &err);
	if (!ret)
		cow_fsfreeze_leave(&f);
	snprintf(text, len, "%s", ret && ret != -ENOENT ? err.text : note);
	return ret == -ENOENT ? 0 : ret;
}

/* The ring now: it may be forbidden by the time it is needed. */
static int serve(struct duty *duty, const struct request *request)
{
	struct cow_error err = { 0 };
	if (duty->serves)
		return -EINVAL;
	int ret = cow_ctrl_open(&duty->ctrl, &err);
	if (ret)
		return ret;
	if (request->supervisor) {
		ret = cow_ctrl_open(&duty->last, &err);
		if (ret) {
			cow_ctrl_close(&duty->ctrl);
			return ret;
		}
		duty->supervisor = pidfd_open(request->supervisor, 0);
		duty->daemon = request->daemon;
		/* Who cannot tell whether it lives does not take it for dead. */
		duty->watches = duty->supervisor >= 0 || errno == ESRCH;
	}
	duty->serves = true;
	duty->id = request->id;
	duty->cookie = request->cookie;
	return 0;
}

static void carry_out(struct duty *duty, const struct request *request, struct answer *answer)
{
	int ret;
	switch (request->kind) {
	case SERVE:
		answer->ret = serve(duty, request);
		break;
	case START:
		ret = prepare(duty);
		answer->ret = ret ? ret : cow_ctrl_start(&duty->ctrl, duty->id, request->daemon);
		break;
	case ARRANGE_PARTITIONS:
		answer->ret = arrange_partitions(duty, request->wish);
		break;
	case STOP:
		ret = prepare(duty);
		answer->ret = ret ? ret : cow_ctrl_stop(&duty->ctrl, duty->id);
		break;
	case TRY_STOP:
		ret = prepare(duty);
		answer->ret = ret ? ret : cow_ctrl_try_stop(&duty->ctrl, duty->id);
		break;
	case DELETE:
		answer->ret = delete_device(duty, request->wait_ms);
		break;
	case CLAIM:
		answer->ret = claim(duty);
		break;
	case FLUSH:
		answer->ret = flush(duty);
		break;
	case RELEASE:
		release(duty);
		break;
	case FIND_USER:
		answer->ret = find_user(duty, answer->text, sizeof(answer->text));
		break;
	case WRITE_BACK:
		answer->ret = write_back(duty, answer->text, sizeof(answer->text));
		break;
	default:
		answer->ret = -EINVAL;
	}
}

/*
 * Nothing of the daemon's or its caller's may be held open: pipes would not end, locks not go. Its
 * standard streams too.
 */
static int let_go(int socket)
{
	int null = open("/dev/null", O_RDWR);
	for (int fd = 0; fd <= STDERR_FILENO && null >= 0; fd++)
		dup2(null, fd);
	if (dup2(socket, STDERR_FILENO + 1) < 0)
		return -1;
	syscall(SYS_close_range, STDERR_FILENO + 2, ~0u, 0);
	return chdir("/");
}

/* Signals are for the daemon, a terminal's too. */
static void ignore_signals(void)
{
	static const int signals[] = { SIGTERM, SIGINT,	 SIGHUP,  SIGQUIT, SIGPIPE,
				       SIGCHLD, SIGTSTP, SIGTTIN, SIGTTOU };
	setsid();
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], SIG_IGN);
}

/*
 * As the daemon: it may have to stop the very disk that its program lies on, so all of that is in
 * memory before.
 */
static void harden(void)
{
	mlockall(MCL_CURRENT);
	cow_harden_memory();
}

/* ---- the watch: a daemon has died that is to be replaced ---- */

static bool is_supervised(const struct duty *duty, int wait_ms)
{
	struct pollfd p = { .fd = duty->supervisor, .events = POLLIN };
	return duty->supervisor >= 0 && poll(&p, 1, wait_ms) <= 0;
}

/* Of a daemon that lives, or has just died, or was not replaced yet: the kernel forgets it first. */
static bool is_still_its(struct duty *duty, struct ub_dev_info *info)
{
	return !cow_ctrl_get_info(&duty->last, duty->id, info) &&
	       info->ublksrv_flags == duty->cookie && info->state != UB_S_DEV_DEAD &&
	       (info->ublksrv_pid <= 0 || info->ublksrv_pid == duty->daemon);
}

/*
 * Until the device is another daemon's. If who was to start that is dead as well nobody ever will: then
 * it is stopped, and requests fail that would wait for ever.
 */
static void watch(struct duty *duty)
{
	struct ub_dev_info info;
	while (duty->serves && is_still_its(duty, &info)) {
		if (is_supervised(duty, WATCH_MS))
			continue;
		if (info.state == UB_S_DEV_QUIESCED) {
			COW_IGNORE(cow_ctrl_stop(&duty->last, duty->id));
			return;
		}
		nanosleep(&(struct timespec){ .tv_nsec = NOTICE_MS * 1000000l }, NULL);
	}
}

/* ---- beats: a request may take as long as the host does ---- */

static struct {
	struct cow_mutex_beats lock;
	pthread_cond_t changed;
	bool working COW_GUARDED_BY(beats);
} beats = { .lock = COW_MUTEX_INITIALIZER(COW_RANK_DAEMON), .changed = PTHREAD_COND_INITIALIZER };

/* Nobody waits for the result: a request may never end, as a START_DEV whose queues are gone. */
static void pause_or_end(struct duty *duty)
{
	struct pollfd p = { .fd = STDERR_FILENO + 1 };
	if (poll(&p, 1, BEAT_MS) <= 0)
		return;
	if (duty->watches)
		watch(duty);
	_exit(0);
}

static void *beat(void *arg)
{
	struct duty *duty = arg;
	const struct answer answer = { .beat = true };
	for (;;) {
		cow_mutex_lock(&beats.lock);
		while (!beats.working)
			cow_mutex_wait(&beats.lock, &beats.changed);
		send(STDERR_FILENO + 1, &answer, sizeof(answer), MSG_NOSIGNAL | MSG_DONTWAIT);
		cow_mutex_unlock(&beats.lock);
		pause_or_end(duty);
	}
	return NULL;
}

static void begin_beats(void)
{
	cow_mutex_lock(&beats.lock);
	beats.working = true;
	pthread_cond_signal(&beats.changed);
	cow_mutex_unlock(&beats.lock);
}

/* None comes after the answer. */
static void end_beats(void)
{
	cow_mutex_lock(&beats.lock);
	beats.working = false;
	cow_mutex_unlock(&beats.lock);
}

/* Whoever asked may have given up waiting for us. */
static bool is_heard(int socket)
{
	struct pollfd p = { .fd = socket };
	return poll(&p, 1, 0) == 0;
}

static void serve_requests(struct duty *duty)
{
	struct request request;
	int socket = STDERR_FILENO + 1;
	while (recv(socket, &request, sizeof(request), 0) == sizeof(request) && is_heard(socket)) {
		struct answer answer = { 0 };
		begin_beats();
		carry_out(duty, &request, &answer);
		end_beats();
		if (send(socket, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
			return;
	}
}

static void keep(int socket, const struct cow_keeper_hooks *hooks)
{
	struct duty duty = { .hooks = *hooks, .claim = -1 };
	pthread_t thread;
	/* Of stop, device nodes, and other processes' files, mounts and mount namespaces. */
	const uint64_t caps = 1ull << CAP_SYS_ADMIN | 1ull << CAP_SYS_CHROOT |
			      1ull << CAP_DAC_OVERRIDE | 1ull << CAP_DAC_READ_SEARCH |
			      1ull << CAP_SYS_PTRACE;
	prctl(PR_SET_NAME, "cowblk-keeper");
	ignore_signals();
	if (hooks->started)
		hooks->started(hooks->ctx);
	harden();
	if (let_go(socket))
		return;
	int ret = cow_harden_keep_capabilities(caps);
	if (ret)
		cow_log(COW_LOG_WARNING, "keeper: capabilities: %s", strerror(-ret));
	if (pthread_create(&thread, NULL, beat, &duty))
		return;
	serve_requests(&duty);
	if (!duty.watches)
		return;
	begin_beats(); /* the last one: there the watch is */
	pthread_join(thread, NULL);
}

/* ---- in the daemon ---- */

int cow_keeper_start(struct cow_keeper *keeper, const struct cow_keeper_hooks *hooks,
		     struct cow_error *err)
{
	int fds[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return cow_error_set(err, -errno, "socketpair: %s", strerror(errno));
	fflush(NULL);
	pid_t pid = fork();
	if (!pid) {
		keep(fds[1], hooks);
		_exit(0);
	}
	int ret = pid < 0 ? cow_error_set(err, -errno, "fork: %s", strerror(errno)) : 0;
	close(fds[1]);
	keeper->fd = fds[0];
	if (ret)
		close(fds[0]);
	return ret;
}

void cow_keeper_end(struct cow_keeper *keeper)
{
	close(keeper->fd);
}

/* The end of it, for the keeper too: what it has not begun it leaves. */
static int give_up(struct cow_keeper *keeper)
{
	shutdown(keeper->fd, SHUT_RDWR);
	return -EPIPE;
}

static bool hear(int socket, struct answer *answer)
{
	ssize_t n;
	do
		n = recv(socket, answer, sizeof(*answer), 0);
	while (n < 0 && errno == EINTR);
	return n == sizeof(*answer);
}

static int ask(struct cow_keeper *keeper, const struct request *request, struct answer *answer)
{
	struct pollfd p = { .fd = keeper->fd, .events = POLLIN };
	ssize_t n = send(keeper->fd, request, sizeof(*request), MSG_NOSIGNAL);
	if (n != sizeof(*request))
		return -EPIPE;
	do {
		int ready = poll(&p, 1, SILENCE_LIMIT_MS);
		if (!ready)
			cow_log(COW_LOG_ERR, "its keeper does not answer: going on without");
		if (ready <= 0 || !hear(keeper->fd, answer))
			return give_up(keeper);
	} while (answer->beat);
	return 0;
}

static int ask_plain(struct cow_keeper *keeper, const struct request *request)
{
	struct answer answer;
	int ret = ask(keeper, request, &answer);
	return ret ? ret : answer.ret;
}

static int ask_kind(struct cow_keeper *keeper, enum request_kind kind)
{
	return ask_plain(keeper, &(struct request){ .kind = kind });
}

int cow_keeper_serve(struct cow_keeper *keeper, uint32_t id, uint64_t cookie, pid_t supervisor)
{
	return ask_plain(keeper, &(struct request){ .kind = SERVE,
						    .id = id,
						    .cookie = cookie,
						    .daemon = getpid(),
						    .supervisor = supervisor });
}

int cow_keeper_start_device(struct cow_keeper *keeper)
{
	return ask_plain(keeper, &(struct request){ .kind = START, .daemon = getpid() });
}

int cow_keeper_arrange_partitions(struct cow_keeper *keeper, enum cow_partitions_wish wish)
{
	return ask_plain(keeper, &(struct request){ .kind = ARRANGE_PARTITIONS, .wish = wish });
}

int cow_keeper_stop(struct cow_keeper *keeper)
{
	return ask_kind(keeper, STOP);
}

int cow_keeper_try_stop(struct cow_keeper *keeper)
{
	return ask_kind(keeper, TRY_STOP);
}

int cow_keeper_delete(struct cow_keeper *keeper, unsigned wait_ms)
{
	return ask_plain(keeper, &(struct request){ .kind = DELETE, .wait_ms = wait_ms });
}

int cow_keeper_claim(struct cow_keeper *keeper)
{
	return ask_kind(keeper, CLAIM);
}

int cow_keeper_flush(struct cow_keeper *keeper)
{
	return ask_kind(keeper, FLUSH);
}

int cow_keeper_release(struct cow_keeper *keeper)
{
	return ask_kind(keeper, RELEASE);
}

int cow_keeper_write_back(struct cow_keeper *keeper, struct cow_error *err)
{
	struct answer answer = { 0 };
	int ret = ask(keeper, &(struct request){ .kind = WRITE_BACK }, &answer);
	if (ret)
		return cow_error_set(err, ret, "the daemon's keeper has died");
	if (answer.ret)
		cow_error_set(err, answer.ret, "%.*s", (int)sizeof(answer.text) - 1, answer.text);
	else if (answer.text[0])
		cow_log(COW_LOG_INFO, "writing back: %.*s", (int)sizeof(answer.text) - 1,
			answer.text);
	return answer.ret;
}

bool cow_keeper_find_user(struct cow_keeper *keeper, char *text, size_t len)
{
	struct answer answer;
	if (ask(keeper, &(struct request){ .kind = FIND_USER }, &answer) || answer.ret <= 0)
		return false;
	snprintf(text, len, "%.*s", (int)sizeof(answer.text) - 1, answer.text);
	return true;
}
