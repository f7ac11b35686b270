/* SPDX-License-Identifier: MIT */
/*
 * Two threads beside the queues': the device thread, which is the process's first, opens the device,
 * runs one job after the other (job.h) and closes it; the control thread (dispatch.h) hears signals
 * and clients, and posts the jobs.
 *
 * Ends: a detach request, SIGTERM, SIGINT (refused once while the device is in use), or somebody
 * else's STOP_DEV. All ways lead through cow_device_close(), which closes the image cleanly.
 */
#include "daemon/server/server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "daemon/control/control.h"
#include "daemon/server/dispatch.h"
#include "daemon/server/job.h"
#include "daemon/server/serve_resize.h"
#include "daemon/server/serve_snapshot.h"
#include "daemon/server/serve_bitmap.h"
#include "daemon/control/record.h"
#include "daemon/server/report.h"
#include "daemon/server/handover.h"
#include "engine/base/log.h"
#include "engine/host/system.h"

/* Who looks for leftovers is quick. */
#define LOCK_WAIT_MS 30000u
#define LOCK_POLL_MS 10u

struct server {
	const struct cow_server_config *config;
	struct cow_device device;
	struct cow_record record;
	struct cow_jobs jobs;
	int signal_fd, listen_fd;
	bool interrupted; /* SIGINT was refused once */
};

/* ---- set up ---- */

static int open_signals(struct server *server, struct cow_error *err)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);	    /* the log tells the requests in flight */
	sigprocmask(SIG_BLOCK, &set, NULL); /* for the queue threads too */
	signal(SIGPIPE, SIG_IGN);
	server->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return server->signal_fd < 0 ? cow_error_set(err, -errno, "signalfd: %s", strerror(errno))
				     : 0;
}

static void fill_record(struct server *server)
{
	const struct cow_device *dev = &server->device;
	server->record = (struct cow_record){
		.id = dev->id,
		.image = (char *)(uintptr_t)cow_image_path(dev->image),
		.size_bytes = dev->geometry.size_bytes,
		.read_only = !dev->geometry.writable,
		.temporary = server->config->device.temporary,
		.snapshot = (char *)(uintptr_t)server->config->device.open.snapshot,
		.queues = dev->nr_queues,
		.depth = dev->depth,
		.pid = getpid(),
		.cookie = dev->cookie,
	};
	cow_image_identity(dev->image, &server->record.file_dev, &server->record.file_ino);
}

/*
 * Socket first: a record without somebody listening means a dead daemon. What lies there of the id's
 * last device goes before, so that who still cleans up after that takes nothing of ours for it.
 */
static int publish(struct server *server, struct cow_error *err)
{
	int ret = cow_record_make_dir();
	bool first = !server->config->is_successor;
	if (!ret) {
		if (first)
			cow_record_clear(server->device.id);
		ret = server->listen_fd = cow_control_listen(server->device.id);
		if (ret >= 0)
			ret = cow_record_write(&server->record);
	}
	if (ret < 0 && first)
		cow_record_clear(server->device.id);
	return ret < 0 ? cow_error_set(err, ret, COW_RUN_DIR ": %s", strerror(-ret)) : 0;
}

/* ---- jobs ---- */

static void stop_for_client(struct server *server, struct cow_job *job)
{
	struct json_object *v;
	struct cow_error err = { 0 };
	bool force =
		json_object_object_get_ex(job->request, "force", &v) && json_object_get_boolean(v);
	job->ret = force ? cow_device_force_stop(&server->device, &err)
			 : cow_device_stop(&server->device, &job->given_up, &err);
	if (job->ret)
		job->reply = cow_control_error(err.text);
}

/* SIGTERM means it: at shutdown nothing else comes but SIGKILL. */
static int stop_for_signal(struct server *server, int signo)
{
	struct cow_error err = { 0 };
	int ret = cow_device_stop(&server->device, NULL, &err);
	if (!ret)
		return 0;
	if (signo == SIGINT && !server->interrupted) {
		server->interrupted = true;
		cow_log(COW_LOG_WARNING, "%s, or interrupt again to take it away", err.text);
		return ret;
	}
	cow_log(COW_LOG_WARNING, "%s: taken away from its users", err.text);
	err = (struct cow_error){ 0 };
	if (cow_device_write_back(&server->device, &err))
		cow_log(COW_LOG_ERR, "%s: what is mounted is not written back: %s",
			server->device.path, err.text);
	err = (struct cow_error){ 0 };
	ret = cow_device_force_stop(&server->device, &err);
	if (ret)
		cow_log(COW_LOG_ERR, "%s", err.text);
	if (ret != -EPIPE)
		return ret;
	cow_log(COW_LOG_WARNING, "%s: closing the image without", server->device.path);
	cow_device_abandon(&server->device);
	return 0;
}

/* When those who asked hear of it, everything is gone but this process. */
static void close_device(struct server *server, struct cow_job *job)
{
	struct cow_error err = { 0 };
	job->ret = cow_device_close(&server->device, &err); /* the record goes with it */
	if (!job->ret)
		return;
	cow_log(COW_LOG_ERR, "%s: %s", server->config->image_path, err.text);
	job->reply = cow_control_error(err.text);
}

static void run_job(struct server *server, struct cow_job *job)
{
	switch (job->kind) {
	case COW_JOB_STOP:
		if (job->signo)
			job->ret = stop_for_signal(server, job->signo);
		else
			stop_for_client(server, job);
		break;
	case COW_JOB_SNAPSHOT:
		cow_serve_snapshot(server->device.image, server->device.loop, job);
		break;
	case COW_JOB_BITMAP:
		cow_serve_bitmap(server->device.image, server->device.loop, job);
		break;
	case COW_JOB_RESIZE:
		cow_serve_resize(server->device.image, server->device.loop,
				 server->config->device.block_bytes, job);
		break;
	case COW_JOB_CLOSE:
		close_device(server, job);
		break;
	}
}

/* The close's result. */
static int run_jobs(struct server *server)
{
	for (;;) {
		struct cow_job *job = cow_jobs_take(&server->jobs);
		run_job(server, job);
		/* From cow_jobs_end() on the job is the control thread's. */
		bool last = job->kind == COW_JOB_CLOSE;
		int ret = job->ret;
		cow_jobs_end(&server->jobs, job);
		if (last)
			return ret;
	}
}

/* ---- start and end ---- */

/* Nobody takes our device for a dead daemon's before it has a record. */
static int lock_record(struct cow_error *err)
{
	for (unsigned ms = 0;; ms += LOCK_POLL_MS) {
		int fd = cow_record_lock(COW_RECORD_LOCK_ONE);
		if (fd >= 0)
			return fd;
		if (fd != -EWOULDBLOCK || ms >= LOCK_WAIT_MS)
			return cow_error_set(err, fd, COW_RUN_DIR "/lock: %s",
					     fd == -EWOULDBLOCK ? "another cowblk holds it"
					     : fd == -EACCES	? "not permitted: run as root"
								: strerror(-fd));
		nanosleep(&(struct timespec){ .tv_nsec = LOCK_POLL_MS * 1000000l }, NULL);
	}
}

/* A keeper that is gone cannot stop it: then nothing is answered any more, and the close ends it. */
static void stop_by_force(struct server *server)
{
	if (cow_device_force_stop(&server->device, NULL))
		cow_device_abandon(&server->device);
}

/*
 * Its device is in use: it serves it whatever becomes of the record. That of the daemon before says all
 * but the process, and keeps lookers for leftovers away, whose lock is not waited for.
 */
static int open_and_publish_again(struct server *server, struct cow_error *err)
{
	int ret = cow_device_open(&server->device, &server->config->device, err);
	if (ret)
		return ret;
	fill_record(server);
	if (publish(server, err))
		cow_log(COW_LOG_ERR, "%s: serves on, but `cowblk list` may not know of it: %s",
			server->device.path, err->text);
	*err = (struct cow_error){ 0 };
	return 0;
}

static int open_and_publish(struct server *server, struct cow_error *err)
{
	int lock = lock_record(err);
	if (lock < 0)
		return lock;
	int ret = cow_device_open(&server->device, &server->config->device, err);
	if (!ret) {
		fill_record(server);
		ret = publish(server, err);
		if (ret) {
			stop_by_force(server);
			COW_IGNORE(cow_device_close(&server->device, err));
		}
	}
	close(lock);
	return ret;
}

static int go(struct server *server, struct cow_error *err)
{
	int ret = cow_jobs_init(&server->jobs);
	if (ret)
		return cow_error_set(err, ret, "eventfd: %s", strerror(-ret));
	ret = open_signals(server, err);
	if (ret)
		goto fini_jobs;
	ret = server->config->is_successor ? open_and_publish_again(server, err)
					   : open_and_publish(server, err);
	if (!ret)
		return 0;
	close(server->signal_fd);
fini_jobs:
	cow_jobs_fini(&server->jobs);
	return ret;
}

/* Without the control thread nobody can ask for anything: the device goes at once. */
static int serve(struct server *server, bool stopped)
{
	const struct cow_dispatch_config config = {
		.signal_fd = server->signal_fd,
		.listen_fd = server->listen_fd,
		.device = &server->device,
		.record = &server->record,
		.transfer = server->config->device.transfer->name,
		.jobs = &server->jobs,
		.stopped = stopped,
	};
	struct cow_dispatch *dispatch;
	int ret = cow_dispatch_start(&dispatch, &config);
	if (!ret) {
		ret = run_jobs(server);
		cow_dispatch_join(dispatch);
		return ret;
	}
	cow_log(COW_LOG_ERR, "%s: no control thread: %s", server->device.path, strerror(-ret));
	struct cow_job job = { .kind = COW_JOB_CLOSE };
	if (!stopped)
		stop_by_force(server);
	close_device(server, &job);
	json_object_put(job.reply);
	return ret;
}

static void own_lock(void *ctx, struct cow_file *file)
{
	cow_system_own_lock(file);
}

/* From here on the device outlives us. */
static int report(struct server *server)
{
	const struct cow_server_config *config = server->config;
	char text[64];
	snprintf(text, sizeof(text), "STATUS=%s: live", server->device.path);
	cow_report_systemd(text);
	int ret = cow_handover_send(config->supervisor_fd, &server->device);
	close(config->supervisor_fd);
	/* It is ours to end in an orderly way from here on. */
	cow_image_each_file(server->device.image, own_lock, NULL);
	for (size_t i = 0; i < config->device.open.nr_kept; i++)
		close(config->device.open.kept[i].fd);
	return ret;
}

static bool go_on(struct server *server)
{
	const struct cow_server_config *config = server->config;
	cow_log(COW_LOG_WARNING, "%s: goes on %llu ms after its daemon died", server->device.path,
		(unsigned long long)(cow_control_now_ms() - config->died_ms));
	int ret = report(server);
	if (ret)
		cow_log(COW_LOG_WARNING, "%s: will not outlive its daemon: %s", server->device.path,
			strerror(-ret));
	return true;
}

/*
 * Nobody hears of the device before the supervisor has all that it needs to keep it: who is killed
 * before that has promised nothing, and it goes.
 */
static bool report_first(struct server *server)
{
	const struct cow_server_config *config = server->config;
	char text[128];
	if (!config->foreground)
		cow_report_leave_terminal(server->device.id, COW_REPORT_LOG_BEGINS);
	int ret = report(server);
	if (!ret) {
		config->leave(config->ctx);
		return true;
	}
	snprintf(text, sizeof(text), "cannot tell its supervisor of the device: %s",
		 strerror(-ret));
	config->announce(config->ctx, NULL, text);
	return cow_device_force_stop(&server->device, NULL);
}

/* False: nobody listens any more, the device is stopped. */
static bool announce(struct server *server)
{
	const struct cow_server_config *config = server->config;
	if (config->is_successor)
		return go_on(server);
	if (config->supervisor_fd)
		return report_first(server);
	cow_report_systemd("READY=1");
	if (!config->announce(config->ctx, server->device.path, NULL))
		return cow_device_force_stop(&server->device, NULL);
	if (!config->foreground)
		cow_report_leave_terminal(server->device.id, COW_REPORT_LOG_BEGINS);
	if (config->no_recovery)
		cow_log(COW_LOG_INFO, "%s: does not outlive its daemon: %s", server->device.path,
			config->no_recovery);
	return true;
}

static int cannot_go(const struct cow_server_config *config, const struct cow_error *err)
{
	if (!config->is_successor) {
		config->announce(config->ctx, NULL, err->text);
		return 1;
	}
	cow_log(COW_LOG_ERR, "%s", err->text);
	return err->code == -ENOTRECOVERABLE ? 1 : COW_SERVER_TRY_AGAIN;
}

int cow_server_run(const struct cow_server_config *config)
{
	struct server server = { .config = config, .listen_fd = -1 };
	struct cow_error err = { 0 };
	int ret = go(&server, &err);
	config->forget(config->ctx);
	if (ret)
		return cannot_go(config, &err);
	bool unheard = !announce(&server);
	if (!unheard)
		cow_device_confine(&server.device, COW_RUN_DIR);
	ret = serve(&server, unheard);
	if (server.listen_fd >= 0)
		close(server.listen_fd);
	close(server.signal_fd);
	cow_jobs_fini(&server.jobs);
	return ret ? 1 : 0;
}
