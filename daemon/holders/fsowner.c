/* SPDX-License-Identifier: MIT */
/* See fsowner.h: calls that may not return, freezing, thawing, the whole course. */
#include "daemon/holders/fsowner.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <time.h>
#include <unistd.h>

#include "daemon/holders/child.h"
#include "daemon/holders/fs.h"
#include "daemon/holders/fsfreeze.h"
#include "engine/base/mutex.h"

/* What a thaw may take before the others' turn comes. */
#define THAW_LIMIT_MS 5000
#define POLL_MS 20
/* For a file system to find out by itself that its disk is dead. */
#define DEAD_GRACE_MS 1000

/* Of XFS, where it is called XFS_IOC_GOINGDOWN. */
#ifndef FS_IOC_SHUTDOWN
#define FS_IOC_SHUTDOWN _IOR('X', 125, uint32_t)
#endif
#define SHUTDOWN_WITHOUT_LOG 2

static uint64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- a call in a thread: it may never return, and nothing can end it ---- */

/* Calls that nobody waits for any more: the process lives as long as they do. */
static atomic_uint nr_left;

struct call {
	/* constant */
	int fd;
	unsigned long request;

	struct cow_mutex_fs_call lock;
	pthread_cond_t cond;
	int error COW_GUARDED_BY(fs_call);
	bool over COW_GUARDED_BY(fs_call);
	bool left COW_GUARDED_BY(fs_call); /* nobody waits, the thread frees it */
};

static void call_free(struct call *call)
{
	cow_mutex_fini(&call->lock);
	pthread_cond_destroy(&call->cond);
	close(call->fd);
	free(call);
}

/* A freeze that comes after its time is undone at once. */
static void *call_run(void *arg)
{
	struct call *call = arg;
	int error = ioctl(call->fd, call->request, 0) ? errno : 0;
	cow_mutex_lock(&call->lock);
	call->error = error;
	call->over = true;
	bool left = call->left;
	pthread_cond_signal(&call->cond);
	cow_mutex_unlock(&call->lock);
	if (left && call->request == FIFREEZE && !error)
		ioctl(call->fd, FITHAW, 0);
	if (left) {
		call_free(call);
		nr_left--;
	}
	return NULL;
}

static struct call *call_start(int fd, unsigned long request)
{
	pthread_t thread;
	struct call *call = calloc(1, sizeof(*call));
	if (!call)
		return NULL;
	cow_mutex_init(&call->lock, COW_RANK_DAEMON);
	pthread_cond_init(&call->cond, NULL);
	call->request = request;
	call->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (call->fd < 0 || pthread_create(&thread, NULL, call_run, call)) {
		call_free(call);
		return NULL;
	}
	pthread_detach(thread);
	return call;
}

/* Waits at most ms. True: it is over. */
static bool call_wait(struct call *call, unsigned ms)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += (long)ms * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	cow_mutex_lock(&call->lock);
	while (!call->over && !cow_mutex_wait_until(&call->lock, &call->cond, &until))
		;
	bool over = call->over;
	cow_mutex_unlock(&call->lock);
	return over;
}

/* Its error, or -EINPROGRESS: it is left to itself. */
static int call_end(struct call *call)
{
	cow_mutex_lock(&call->lock);
	int ret = call->over ? -call->error : -EINPROGRESS;
	call->left = !call->over;
	nr_left += call->left;
	cow_mutex_unlock(&call->lock);
	if (ret != -EINPROGRESS)
		call_free(call);
	return ret;
}

/* ---- thawing ---- */

static int thaw_one(int fd)
{
	struct call *call = call_start(fd, FITHAW);
	if (!call)
		return ioctl(fd, FITHAW, 0) ? -errno : 0;
	for (unsigned ms = 0; ms < THAW_LIMIT_MS && !call_wait(call, POLL_MS); ms += POLL_MS)
		;
	return call_end(call);
}

/* In the reverse order, each given some time. The number of those that take longer. */
static unsigned thaw_all(const int *fds, unsigned nr)
{
	unsigned late = 0;
	while (nr)
		late += thaw_one(fds[--nr]) == -EINPROGRESS;
	return late;
}

/* ---- freezing ---- */

struct owner {
	const struct cow_fsowner *config;
	struct cow_fs_list list;
	int fd; /* to the maker */
	int frozen[COW_FSFREEZE_MAX];
	unsigned nr;
	uint64_t deadline_ms; /* from the first freeze to the thaw; else 0 */
	char failure[COW_CHILD_TEXT_BYTES];
	int server;	  /* pidfd; -1: unknown */
	uint64_t dead_ms; /* since when it is known to be dead; 0: not */
};

/* While something is frozen nobody waits longer than that, not for a maker that reads nothing either. */
static int left_ms(const struct owner *o)
{
	uint64_t now = now_ms();
	return !o->deadline_ms ? -1 : now < o->deadline_ms ? (int)(o->deadline_ms - now) : 0;
}

static void __attribute__((format(printf, 2, 3))) tell(const struct owner *o, const char *fmt, ...)
{
	char text[COW_CHILD_TEXT_BYTES];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	COW_IGNORE(cow_child_send_within(o->fd, text, -1, left_ms(o)));
}

static bool maker_is_gone(const struct owner *o)
{
	struct pollfd p = { .fd = o->fd, .events = POLLRDHUP };
	return poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

static void thaw(struct owner *o)
{
	unsigned late = thaw_all(o->frozen, o->nr);
	o->deadline_ms = 0;
	if (late)
		tell(o,
		     "n%u file system%s cannot be thawed: the device does not answer; process %d "
		     "goes on trying",
		     late, late == 1 ? "" : "s", getpid());
	o->nr = 0;
}

/* ---- a disk whose server has died: nothing that is not on it by now will ever be ---- */

static bool is_dead(struct owner *o)
{
	struct pollfd p = { .fd = o->server, .events = POLLIN };
	if (o->server >= 0 && !o->dead_ms && poll(&p, 1, 0) > 0)
		o->dead_ms = now_ms();
	return o->dead_ms && now_ms() - o->dead_ms >= DEAD_GRACE_MS;
}

/* Others give up by themselves; and what has a part elsewhere may live on with that. */
static void shut_down(struct owner *o)
{
	for (unsigned i = o->list.nr; i-- > 0;) {
		const struct cow_fs *fs = &o->list.fs[i];
		uint32_t how = SHUTDOWN_WITHOUT_LOG;
		if (fs->fd >= 0 && !strcmp(fs->type, "xfs") &&
		    cow_fs_lies_only_on_disk(&o->list, fs))
			ioctl(fs->fd, FS_IOC_SHUTDOWN, &how);
	}
	close(o->server);
	o->server = -1;
	o->dead_ms = 0;
}

/* Until it is frozen, the maker is gone or the time is over. */
static int freeze_in_time(struct owner *o, int fd)
{
	struct call *call = call_start(fd, FIFREEZE);
	if (!call)
		return -ENOMEM;
	while (!call_wait(call, POLL_MS)) {
		if (is_dead(o))
			shut_down(o);
		if (maker_is_gone(o) || now_ms() >= o->deadline_ms)
			break;
	}
	return call_end(call);
}

static int freeze_one(struct owner *o, struct cow_fs *fs)
{
	char what[600], text[COW_CHILD_TEXT_BYTES];
	cow_fs_describe(&o->list, fs, what, sizeof(what));
	snprintf(text, sizeof(text), "f%s", what);
	int ret = cow_child_send_within(o->fd, text, fs->fd, left_ms(o));
	if (!ret)
		ret = freeze_in_time(o, fs->fd);
	switch (ret) {
	case 0:
		o->frozen[o->nr++] = fs->fd;
		tell(o, "zfroze %s", what);
		return 0;
	case -ETIMEDOUT: /* nobody hears what is frozen */
		snprintf(o->failure, sizeof(o->failure), "x");
		return ret;
	case -EBUSY:
		tell(o, "n%s: is frozen already, by somebody else", what);
		return 0;
	case -EOPNOTSUPP:
		tell(o, "n%s: cannot be frozen: was written back instead", what);
		return 0;
	default:
		snprintf(o->failure, sizeof(o->failure), "e%s: cannot be frozen: %s", what,
			 ret == -EINPROGRESS ? "it takes too long: given up" : strerror(-ret));
		return ret;
	}
}

/* What lies on another's file comes first: its last writes go there. */
static int freeze(struct owner *o)
{
	int ret = 0;
	o->deadline_ms = now_ms() + o->config->limit_ms;
	for (unsigned i = o->list.nr; !ret && i-- > 0;)
		if (o->list.fs[i].fd >= 0)
			ret = freeze_one(o, &o->list.fs[i]);
	return ret;
}

/* ---- the whole course ---- */

static unsigned prepare(struct owner *o)
{
	char what[600];
	unsigned nr = 0;
	for (unsigned i = o->list.nr; i-- > 0;) {
		struct cow_fs *fs = &o->list.fs[i];
		int ret = nr < COW_FSFREEZE_MAX ? cow_fs_open(&o->list, fs) : -E2BIG;
		if (!ret)
			ret = syncfs(fs->fd) ? -errno : 0;
		nr += fs->fd >= 0;
		if (!ret)
			continue;
		cow_fs_describe(&o->list, fs, what, sizeof(what));
		if (fs->fd < 0)
			tell(o, "n%s: cannot be opened, and so neither written back nor frozen: %s",
			     what, strerror(-ret));
		else
			tell(o, "n%s: cannot be written back: %s", what, strerror(-ret));
	}
	return nr;
}

/* False: the maker is gone, or wants no freeze. */
static bool wait_order(const struct owner *o)
{
	char text[COW_CHILD_TEXT_BYTES];
	return !cow_child_receive(o->fd, -1, text, NULL) && text[0] == 'F';
}

static void hold(struct owner *o)
{
	char text[COW_CHILD_TEXT_BYTES];
	bool late = cow_child_receive(o->fd, left_ms(o), text, NULL) == -ETIMEDOUT;
	thaw(o);
	tell(o, late ? "x" : "d");
}

static void run(struct owner *o)
{
	int ret = cow_fs_find(&o->list, o->config->disk, COW_MNTNS_ALL);
	if (ret) {
		tell(o, "ecannot find what is mounted: %s", strerror(-ret));
		return;
	}
	/* What cannot be seen is written back with all the rest of the machine. */
	if (o->list.namespaces.blind) {
		sync();
		tell(o,
		     "nnot all processes and mount namespaces may be looked at from here: what is "
		     "mounted in others only is written back, not frozen");
	}
	if (!o->list.nr) {
		tell(o, "E");
		return;
	}
	if (!prepare(o)) {
		tell(o, "enone of its file systems can be opened");
		return;
	}
	tell(o, "d");
	if (!wait_order(o))
		return;
	if (freeze(o)) {
		thaw(o);
		tell(o, "%s", o->failure);
		return;
	}
	tell(o, "d");
	hold(o);
}

void cow_fsowner_run(int fd, void *ctx)
{
	static struct owner o;
	o = (struct owner){ .config = ctx, .fd = fd, .server = -1 };
	if (o.config->server)
		o.server = pidfd_open(o.config->server, 0);
	run(&o);
	while (nr_left) {
		if (is_dead(&o))
			shut_down(&o);
		usleep(POLL_MS * 1000);
	}
}

/* ---- when an owner was killed ---- */

void cow_fsowner_thaw_run(int fd, void *ctx)
{
	static int fds[COW_FSFREEZE_MAX];
	char text[COW_CHILD_TEXT_BYTES];
	unsigned nr = 0;
	int passed;
	while (!cow_child_receive(fd, -1, text, &passed) && passed >= 0)
		if (nr < COW_FSFREEZE_MAX)
			fds[nr++] = passed;
	thaw_all(fds, nr);
	COW_IGNORE(cow_child_send(fd, "d", -1));
	while (nr_left)
		usleep(POLL_MS * 1000);
}
