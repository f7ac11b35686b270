/* SPDX-License-Identifier: MIT */
/* See dispatch.h: set-up, signals and queues, clients, jobs, the loop, in this order. */
#include "daemon/server/dispatch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/control/control.h"
#include "daemon/server/client.h"
#include "daemon/server/server_health.h"
#include "daemon/server/report.h"
#include "daemon/server/serve_requests.h"
#include "engine/base/assert.h"
#include "engine/base/log.h"

/* More wait in the socket's backlog until one is answered, or has said nothing in time. */
#define MAX_CLIENTS 128u
/* Where the process has no descriptor left for another client. */
#define ACCEPT_PAUSE_MS 100u
/* For the last answers of a daemon that ends. */
#define TELL_LIMIT_MS 2000u

enum state { LIVE, STOPPED, CLOSING, CLOSED };

struct cow_dispatch {
	struct cow_dispatch_config config;
	pthread_t thread;
	enum state state;
	uint64_t now_ms, accept_ms, tell_ms;
	uint64_t nr_tickets;
	int signo;	     /* to be served; 0: none */
	uint64_t size_bytes; /* of the disk, if it has become larger; else 0 */
	bool busy;
	bool keeper_lost;
	struct cow_requests requests;
	bool log_requests, log_asked; /* for the log: wanted; under way */
	struct cow_job job;
	struct cow_client *asker; /* of the job; NULL: none, or gone */
	struct cow_client clients[MAX_CLIENTS];
};

/* ---- signals, and the device's end by others ---- */

static void handle_signals(struct cow_dispatch *d)
{
	struct signalfd_siginfo info;
	while (read(d->config.signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGUSR1)
			d->log_requests = true;
		if (info.ssi_signo == SIGUSR1 || info.ssi_signo == SIGHUP || d->state != LIVE)
			continue;
		cow_report_systemd("STOPPING=1");
		/* SIGTERM means it, SIGINT can be refused: the stronger one stays. */
		if (d->signo != SIGTERM)
			d->signo = (int)info.ssi_signo;
		if (d->busy)
			atomic_store(&d->job.given_up, true);
	}
}

static bool watches_queues(const struct cow_dispatch *d)
{
	return d->state == LIVE && !(d->busy && d->job.kind == COW_JOB_STOP);
}

static void handle_queues(struct cow_dispatch *d)
{
	uint64_t count;
	if (read(d->config.device->event_fd, &count, sizeof(count)) != sizeof(count) ||
	    !cow_device_drained(d->config.device))
		return;
	cow_log(COW_LOG_WARNING, "%s: stopped by somebody else: closing the image",
		d->config.device->path);
	d->state = STOPPED;
}

/* Also when the device thread has given it up. */
static void lose_keeper(struct cow_dispatch *d)
{
	d->keeper_lost = true;
	cow_log(COW_LOG_ERR,
		"%s: its keeper is gone: SIGTERM closes the image, `cowblk detach --force` "
		"detaches",
		d->config.device->path);
}

/* ---- clients ---- */

static const char *kind_text(enum cow_job_kind kind)
{
	static const char *const texts[] = {
		[COW_JOB_STOP] = "stopping the device",
		[COW_JOB_SNAPSHOT] = "changing snapshots",
		[COW_JOB_BITMAP] = "working on dirty bitmaps",
		[COW_JOB_RESIZE] = "making the disk larger",
		[COW_JOB_CLOSE] = COW_CONTROL_CLOSING,
	};
	return texts[kind];
}

/* What the daemon is at, for those who wait; NULL: nothing. */
static const char *doing(const struct cow_dispatch *d)
{
	if (!d->busy)
		return NULL;
	const char *text = atomic_load(&d->job.doing);
	return text ? text : kind_text(d->job.kind);
}

static struct json_object *status_reply(const struct cow_dispatch *d)
{
	bool ending = d->state != LIVE || (d->busy && d->job.kind == COW_JOB_STOP);
	const char *failure = ending ? NULL : cow_image_failure(d->config.device->image);
	struct json_object *reply = cow_record_to_json(d->config.record);
	const char *state = ending ? "detaching" : failure ? "failed" : "live", *at = doing(d);
	json_object_object_add(reply, "ok", json_object_new_boolean(true));
	if (d->size_bytes)
		json_object_object_add(reply, "size", json_object_new_uint64(d->size_bytes));
	json_object_object_add(reply, "state", json_object_new_string(state));
	json_object_object_add(reply, "failure", failure ? json_object_new_string(failure) : NULL);
	cow_health_show(reply, ending ? NULL : d->config.device->image);
	json_object_object_add(reply, "transfer", json_object_new_string(d->config.transfer));
	json_object_object_add(reply, "given-up",
			       json_object_new_string(d->config.device->sandbox.text));
	json_object_object_add(
		reply, "recovery",
		json_object_new_boolean(d->config.device->flags & UB_F_USER_RECOVERY));
	json_object_object_add(reply, "keeper", json_object_new_boolean(!d->keeper_lost));
	if (at)
		json_object_object_add(reply, "doing", json_object_new_string(at));
	return reply;
}

static void answer(struct cow_dispatch *d, struct cow_client *client, struct json_object *reply)
{
	cow_client_answer(client, reply, NULL, 0, d->now_ms);
}

static const char *command_of(const struct cow_client *client)
{
	return cow_control_text(client->request, "cmd", "");
}

/* The queues run until CLOSE is posted. */
static void want_requests(struct cow_dispatch *d, struct cow_client *client)
{
	if (d->state == LIVE || d->state == STOPPED)
		client->state = COW_CLIENT_ASKING;
	else
		answer(d, client, cow_control_error("is being detached"));
}

static bool is_job(const char *cmd)
{
	return !strcmp(cmd, "detach") || !strcmp(cmd, "snapshot") || !strcmp(cmd, "bitmap") ||
	       !strcmp(cmd, "resize");
}

/*
 * What needs no job is answered at once. What is in a temporary overlay, snapshots and bitmaps too,
 * ends with the device: it would look kept.
 */
static void answer_at_once(struct cow_dispatch *d, struct cow_client *client)
{
	const char *cmd = command_of(client);
	uint64_t cookie = cow_control_number(client->request, "cookie");
	if (cookie && cookie != d->config.record->cookie)
		answer(d, client, cow_control_error("is another device by now: see `cowblk list`"));
	else if (!strcmp(cmd, "status"))
		answer(d, client, status_reply(d));
	else if (!strcmp(cmd, "requests"))
		want_requests(d, client);
	else if (!is_job(cmd))
		answer(d, client, cow_control_error("unknown request"));
	else if (d->config.record->temporary && strcmp(cmd, "detach") && strcmp(cmd, "resize"))
		answer(d, client,
		       cow_control_error("is a temporary overlay, which keeps neither snapshots "
					 "nor bitmaps: detach it and name the image"));
	else if (d->state != LIVE && strcmp(cmd, "detach"))
		answer(d, client, cow_control_error("is being detached"));
}

static void drop(struct cow_dispatch *d, struct cow_client *client)
{
	if (d->asker == client) {
		d->asker = NULL;
		if (d->busy)
			atomic_store(&d->job.given_up, true);
	}
	cow_client_close(client);
}

static void advance(struct cow_dispatch *d, struct cow_client *client, short events)
{
	if (client->state == COW_CLIENT_READING && events & POLLIN &&
	    cow_client_read(client, d->now_ms) && !(events & (POLLHUP | POLLERR)))
		answer_at_once(d, client);
	if (client->state == COW_CLIENT_FREE)
		return;
	if (events & (POLLHUP | POLLERR | POLLNVAL))
		drop(d, client);
	else if (client->state == COW_CLIENT_SENDING && events & POLLOUT)
		cow_client_send(client);
}

static struct cow_client *free_client(struct cow_dispatch *d)
{
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (d->clients[i].state == COW_CLIENT_FREE)
			return &d->clients[i];
	return NULL;
}

static void accept_clients(struct cow_dispatch *d)
{
	struct cow_client *client;
	while ((client = free_client(d))) {
		int fd = accept4(d->config.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && errno == EINTR)
			continue;
		if (fd < 0) {
			if (errno != EAGAIN && errno != ECONNABORTED)
				d->accept_ms = d->now_ms + ACCEPT_PAUSE_MS;
			return;
		}
		cow_client_open(client, fd, d->nr_tickets++, d->now_ms);
	}
}

/* ---- requests in flight ---- */

static void end_asking(struct cow_dispatch *d)
{
	if (!d->requests.asking)
		return;
	d->requests.asking = false;
	if (d->log_asked)
		cow_requests_log(&d->requests);
	d->log_asked = false;
	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		struct cow_client *client = &d->clients[i];
		void *bytes;
		size_t nr_bytes;
		if (client->state != COW_CLIENT_ASKING || !client->asked)
			continue;
		struct json_object *reply = cow_requests_show(&d->requests, &bytes, &nr_bytes);
		cow_client_answer(client, reply, bytes, nr_bytes, d->now_ms);
	}
}

/* Who comes while the queues are asked gets the next answer: this one may be of before. */
static void begin_asking(struct cow_dispatch *d)
{
	bool wanted = d->log_requests;
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (d->clients[i].state == COW_CLIENT_ASKING)
			wanted = d->clients[i].asked = true;
	d->log_asked = d->log_requests;
	d->log_requests = false;
	if (wanted)
		cow_requests_ask(&d->requests, d->now_ms);
}

static void ask_queues(struct cow_dispatch *d)
{
	if (d->state != LIVE && d->state != STOPPED)
		return;
	if (d->requests.asking && cow_requests_are_in(&d->requests, d->now_ms))
		end_asking(d);
	if (!d->requests.asking)
		begin_asking(d);
}

/* Before the queues go: with what they have said so far. */
static void give_up_asking(struct cow_dispatch *d)
{
	end_asking(d);
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (d->clients[i].state == COW_CLIENT_ASKING)
			answer(d, &d->clients[i], cow_control_error("is being detached"));
}

/* ---- jobs ---- */

static void post(struct cow_dispatch *d, enum cow_job_kind kind, struct cow_client *asker)
{
	d->job = (struct cow_job){
		.kind = kind,
		.request = asker ? asker->request : NULL,
		/* its own: the client may go while the job talks to it */
		.client_fd = asker ? fcntl(asker->fd, F_DUPFD_CLOEXEC, 0) : -1,
	};
	d->asker = asker;
	d->busy = true;
	if (asker) {
		/* The job may outlive its client, and needs what was asked. */
		json_object_get(asker->request);
		asker->state = COW_CLIENT_RUNNING;
	} else {
		d->job.signo = d->signo;
		d->signo = 0;
	}
	cow_jobs_post(d->config.jobs, &d->job);
}

static bool is_dump(const struct cow_client *client)
{
	return !strcmp(command_of(client), "bitmap") &&
	       !strcmp(cow_control_text(client->request, "action", ""), "dump");
}

/* A dump's bytes lie in locked memory until its reader has taken them: one at a time. */
static bool dump_is_read(const struct cow_dispatch *d)
{
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (d->clients[i].state == COW_CLIENT_SENDING && d->clients[i].nr_bytes &&
		    is_dump(&d->clients[i]))
			return true;
	return false;
}

static struct cow_client *next_client(struct cow_dispatch *d)
{
	bool full = dump_is_read(d);
	struct cow_client *first = NULL;
	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		struct cow_client *client = &d->clients[i];
		if (client->state == COW_CLIENT_WAITING && !(full && is_dump(client)) &&
		    (!first || client->ticket < first->ticket))
			first = client;
	}
	return first;
}

static void start_job(struct cow_dispatch *d)
{
	struct cow_client *client;
	if (d->busy)
		return;
	if (d->state == STOPPED) {
		give_up_asking(d);
		post(d, COW_JOB_CLOSE, NULL);
		d->state = CLOSING;
	} else if (d->state == LIVE && d->signo) {
		post(d, COW_JOB_STOP, NULL);
	} else if (d->state == LIVE && (client = next_client(d))) {
		const char *cmd = command_of(client);
		post(d,
		     !strcmp(cmd, "detach")	? COW_JOB_STOP
		     : !strcmp(cmd, "snapshot") ? COW_JOB_SNAPSHOT
		     : !strcmp(cmd, "resize")	? COW_JOB_RESIZE
						: COW_JOB_BITMAP,
		     client);
	}
}

static struct json_object *last_word(struct cow_client *client, const struct cow_job *closed)
{
	client->stays = true;
	if (strcmp(command_of(client), "detach"))
		return cow_control_error("is being detached");
	return closed->reply ? json_object_get(closed->reply) : cow_control_ok();
}

/* Those who wait for a detach hear how the close went, and the end of the process. */
static void tell_end(struct cow_dispatch *d)
{
	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		struct cow_client *client = &d->clients[i];
		if (client->state == COW_CLIENT_STOPPED || client->state == COW_CLIENT_WAITING)
			answer(d, client, last_word(client, &d->job));
	}
}

static void job_over(struct cow_dispatch *d)
{
	struct cow_job *job = cow_jobs_reap(d->config.jobs);
	if (!job)
		return;
	struct cow_client *asker = d->asker;
	if (job->client_fd >= 0)
		close(job->client_fd);
	json_object_put(job->request);
	d->busy = false;
	d->asker = NULL;
	if (job->kind == COW_JOB_RESIZE)
		d->size_bytes = cow_control_number(job->reply, "size");
	if (asker && job->kind == COW_JOB_STOP && job->ret == -ECANCELED && d->signo) {
		/* The signal stops it first: then this client hears how that went. */
		asker->state = COW_CLIENT_WAITING;
		json_object_put(job->reply);
		return;
	}
	if (job->kind == COW_JOB_CLOSE) {
		d->state = CLOSED;
		d->tell_ms = d->now_ms + TELL_LIMIT_MS;
		return;
	}
	if (job->kind == COW_JOB_STOP && !job->ret && d->state == LIVE)
		d->state = STOPPED;
	if (asker && job->kind == COW_JOB_STOP && !job->ret) {
		asker->state = COW_CLIENT_STOPPED;
	} else if (asker) {
		cow_client_answer(asker, job->reply ? job->reply : cow_control_ok(), job->bytes,
				  job->nr_bytes, d->now_ms);
		return;
	}
	json_object_put(job->reply);
	free(job->bytes);
}

/* ---- the loop ---- */

enum { POLL_SIGNALS, POLL_JOB, POLL_LISTEN, POLL_QUEUES, POLL_ANSWERS, POLL_KEEPER, POLL_CLIENTS };

static int timeout_ms(const struct cow_dispatch *d)
{
	/* Stopped before there was a loop: nothing wakes it for the close. */
	if (d->state == STOPPED && !d->busy)
		return 0;
	uint64_t due = d->state == CLOSED ? d->tell_ms : UINT64_MAX;
	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		uint64_t own = cow_client_due_ms(&d->clients[i]);
		due = own < due ? own : due;
	}
	if (d->accept_ms > d->now_ms && d->accept_ms < due)
		due = d->accept_ms;
	if (d->requests.asking && d->requests.deadline_ms < due)
		due = d->requests.deadline_ms;
	if (due == UINT64_MAX)
		return -1;
	return due > d->now_ms ? (int)(due - d->now_ms) : 0;
}

static void wait_events(struct cow_dispatch *d, struct pollfd *fds)
{
	bool accepting = free_client(d) && d->now_ms >= d->accept_ms;
	fds[POLL_SIGNALS] = (struct pollfd){ .fd = d->config.signal_fd, .events = POLLIN };
	fds[POLL_JOB] = (struct pollfd){ .fd = d->config.jobs->over_fd, .events = POLLIN };
	fds[POLL_LISTEN] =
		(struct pollfd){ .fd = accepting ? d->config.listen_fd : -1, .events = POLLIN };
	fds[POLL_QUEUES] =
		(struct pollfd){ .fd = watches_queues(d) ? d->config.device->event_fd : -1,
				 .events = POLLIN };
	fds[POLL_ANSWERS] =
		(struct pollfd){ .fd = d->requests.asking ? d->config.device->answer_fd : -1,
				 .events = POLLIN };
	bool has_keeper = d->state == LIVE && !d->keeper_lost;
	fds[POLL_KEEPER] = (struct pollfd){ .fd = has_keeper ? d->config.device->keeper.fd : -1 };
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		fds[POLL_CLIENTS + i] = (struct pollfd){
			.fd = d->clients[i].state == COW_CLIENT_FREE ? -1 : d->clients[i].fd,
			.events = cow_client_events(&d->clients[i])
		};
	if (poll(fds, POLL_CLIENTS + MAX_CLIENTS, timeout_ms(d)) < 0)
		for (unsigned i = 0; i < POLL_CLIENTS + MAX_CLIENTS; i++)
			fds[i].revents = 0;
	d->now_ms = cow_control_now_ms();
}

static void serve_clients(struct cow_dispatch *d, const struct pollfd *fds)
{
	const char *text = doing(d);
	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		struct cow_client *client = &d->clients[i];
		if (client->state != COW_CLIENT_FREE && fds[POLL_CLIENTS + i].revents)
			advance(d, client, fds[POLL_CLIENTS + i].revents);
		if (client->state != COW_CLIENT_FREE && cow_client_is_late(client, d->now_ms))
			drop(d, client);
		else if (client->state != COW_CLIENT_FREE)
			cow_client_beat(client, text ? text : "waiting", d->now_ms);
	}
}

static bool all_told(const struct cow_dispatch *d)
{
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		if (d->clients[i].state != COW_CLIENT_FREE &&
		    d->clients[i].state != COW_CLIENT_TOLD)
			return false;
	return true;
}

/* One round after the last client came finds nobody in the backlog either. */
static bool is_over(struct cow_dispatch *d, uint64_t nr_tickets)
{
	if (d->state != CLOSED)
		return false;
	tell_end(d);
	return d->now_ms >= d->tell_ms || (all_told(d) && nr_tickets == d->nr_tickets);
}

static void *run(void *arg)
{
	struct cow_dispatch *d = arg;
	static struct pollfd fds[POLL_CLIENTS + MAX_CLIENTS];
	uint64_t nr_tickets;
	do {
		wait_events(d, fds);
		if (fds[POLL_SIGNALS].revents)
			handle_signals(d);
		if (fds[POLL_QUEUES].revents)
			handle_queues(d);
		if (fds[POLL_KEEPER].revents)
			lose_keeper(d);
		if (fds[POLL_JOB].revents)
			job_over(d);
		serve_clients(d, fds);
		nr_tickets = d->nr_tickets;
		if (d->now_ms >= d->accept_ms)
			accept_clients(d);
		ask_queues(d);
		start_job(d);
	} while (!is_over(d, nr_tickets));
	return NULL;
}

int cow_dispatch_start(struct cow_dispatch **out, const struct cow_dispatch_config *config)
{
	struct cow_dispatch *d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->config = *config;
	d->requests.device = config->device;
	d->state = config->stopped ? STOPPED : LIVE;
	d->now_ms = cow_control_now_ms();
	int ret = -pthread_create(&d->thread, NULL, run, d);
	if (ret) {
		free(d);
		return ret;
	}
	*out = d;
	return 0;
}

void cow_dispatch_join(struct cow_dispatch *dispatch)
{
	pthread_join(dispatch->thread, NULL);
	/* Clients that were told keep their connection until the process ends. */
	json_object_put(dispatch->job.reply);
	free(dispatch);
}
