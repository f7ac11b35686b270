/* SPDX-License-Identifier: MIT */
/*
 * While the device is live the control thread sleeps in poll() on: signals, the control socket, and
 * the queues' word that the kernel stopped the device. Requests of clients are answered one at a
 * time.
 *
 * Ends: a detach request, SIGTERM, SIGINT (refused once while the device is in use), or somebody
 * else's STOP_DEV. All ways lead through cow_device_close(), which closes the image cleanly.
 */
#include "daemon/server/server.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/control/control.h"
#include "daemon/server/serve_snapshot.h"
#include "daemon/server/serve_bitmap.h"
#include "daemon/control/record.h"
#include "daemon/server/report.h"
#include "engine/base/log.h"

#define CLIENT_TIMEOUT_MS 2000

struct server {
	const struct cow_server_config *config;
	struct cow_device device;
	struct cow_record record;
	int signal_fd, listen_fd;
	int detacher;	  /* the client that waits for the end, or -1 */
	bool interrupted; /* SIGINT was refused once */
	bool ending;
};

/* ---- set up ---- */

static int open_signals(struct server *server, struct cow_error *err)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL); /* for the queue threads too */
	signal(SIGPIPE, SIG_IGN);
	server->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	return server->signal_fd < 0 ? cow_error_set(err, -errno, "signalfd: %s", strerror(errno))
				     : 0;
}

static void fill_record(struct server *server)
{
	const struct cow_device *dev = &server->device;
	server->record = (struct cow_record){
		.id = dev->id,
		.image = (char *)(uintptr_t)server->config->image_path,
		.size_bytes = dev->geometry.size_bytes,
		.read_only = !dev->geometry.writable,
		.temporary = server->config->device.temporary,
		.snapshot = (char *)(uintptr_t)server->config->device.open.snapshot,
		.queues = dev->nr_queues,
		.depth = dev->depth,
		.pid = getpid(),
		.cookie = dev->cookie,
	};
}

/* Socket first: a record without somebody listening means a dead daemon. */
static int publish(struct server *server, struct cow_error *err)
{
	int ret = cow_record_make_dir();
	if (!ret) {
		ret = server->listen_fd = cow_control_listen(server->device.id);
		if (ret >= 0)
			ret = cow_record_write(&server->record);
	}
	if (ret < 0)
		cow_record_remove(server->device.id);
	return ret < 0 ? cow_error_set(err, ret, COW_RUN_DIR ": %s", strerror(-ret)) : 0;
}

/* ---- clients ---- */

static struct json_object *status_reply(struct server *server)
{
	const char *failure = cow_image_failure(server->device.image);
	struct json_object *reply = cow_record_to_json(&server->record);
	json_object_object_add(reply, "ok", json_object_new_boolean(true));
	json_object_object_add(
		reply, "state",
		json_object_new_string(failure ? "failed"
					       : cow_device_state_name(server->device.state)));
	json_object_object_add(reply, "failure", failure ? json_object_new_string(failure) : NULL);
	json_object_object_add(reply, "transfer",
			       json_object_new_string(server->config->device.transfer->name));
	return reply;
}

static void handle_detach(struct server *server, int client, struct json_object *request)
{
	struct json_object *v;
	bool force = json_object_object_get_ex(request, "force", &v) && json_object_get_boolean(v);
	struct cow_error err = { 0 };
	if (cow_device_stop(&server->device, force, &err)) {
		cow_control_send(client, cow_control_error(err.text));
		close(client);
		return;
	}
	server->detacher = client;
	server->ending = true;
}

/*
 * What is in a temporary overlay, snapshots and bitmaps too, ends with the device: it would look
 * kept.
 */
static bool refuse_temporary(const struct server *server, int client, const char *cmd)
{
	if (!server->config->device.temporary || (strcmp(cmd, "snapshot") && strcmp(cmd, "bitmap")))
		return false;
	cow_control_send(client, cow_control_error("is a temporary overlay, which keeps neither "
						   "snapshots nor bitmaps: detach it "
						   "and name the image"));
	close(client);
	return true;
}

static void handle_client(struct server *server, int client)
{
	int error;
	struct json_object *request = cow_control_receive(client, CLIENT_TIMEOUT_MS, &error);
	const char *cmd = request ? cow_control_text(request, "cmd", "") : "";
	if (refuse_temporary(server, client, cmd)) {
		/* answered */
	} else if (!strcmp(cmd, "detach")) {
		handle_detach(server, client, request);
	} else if (!strcmp(cmd, "snapshot")) {
		cow_control_send(client, cow_serve_snapshot(server->device.image, request));
		close(client);
	} else if (!strcmp(cmd, "bitmap")) {
		cow_serve_bitmap(server->device.image, request, client);
		close(client);
	} else {
		cow_control_send(client, !strcmp(cmd, "status")
						 ? status_reply(server)
						 : cow_control_error("unknown request"));
		close(client);
	}
	json_object_put(request);
}

static int next_client(const struct server *server)
{
	return accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC);
}

/* ---- signals ---- */

/* SIGTERM means it: at shutdown nothing else comes but SIGKILL. */
static void handle_signal(struct server *server)
{
	struct signalfd_siginfo info;
	if (read(server->signal_fd, &info, sizeof(info)) != sizeof(info) ||
	    info.ssi_signo == SIGHUP)
		return;
	struct cow_error err = { 0 };
	cow_report_systemd("STOPPING=1");
	if (!cow_device_stop(&server->device, false, &err)) {
		server->ending = true;
		return;
	}
	if (info.ssi_signo == SIGINT && !server->interrupted) {
		server->interrupted = true;
		cow_log(COW_LOG_WARNING, "%s, or interrupt again to take it away", err.text);
		return;
	}
	cow_log(COW_LOG_WARNING, "%s: taken away from its users", err.text);
	err = (struct cow_error){ 0 };
	if (cow_device_stop(&server->device, true, &err))
		cow_log(COW_LOG_ERR, "%s", err.text);
	else
		server->ending = true;
}

static void handle_queues(struct server *server)
{
	uint64_t count;
	if (read(server->device.event_fd, &count, sizeof(count)) != sizeof(count))
		return;
	if (!cow_device_drained(&server->device))
		return;
	cow_log(COW_LOG_WARNING, "%s: stopped by somebody else: closing the image",
		server->device.path);
	server->ending = true;
}

static void serve(struct server *server)
{
	while (!server->ending) {
		struct pollfd fds[] = {
			{ .fd = server->signal_fd, .events = POLLIN },
			{ .fd = server->listen_fd, .events = POLLIN },
			{ .fd = server->device.event_fd, .events = POLLIN },
		};
		if (poll(fds, 3, -1) < 0)
			continue;
		if (fds[2].revents)
			handle_queues(server);
		if (!server->ending && fds[0].revents)
			handle_signal(server);
		int client = !server->ending && fds[1].revents ? next_client(server) : -1;
		if (client >= 0)
			handle_client(server, client);
	}
}

/* ---- the end ---- */

/* The connection itself ends with the process. */
static void tell_end(int client, const char *error)
{
	if (client < 0)
		return;
	cow_control_send(client, error ? cow_control_error(error) : cow_control_ok());
}

/* Those who came while we were at it; most of them want a detach as well. */
static void answer_late_clients(const struct server *server, const char *error)
{
	int client, ignored;
	while ((client = next_client(server)) >= 0) {
		json_object_put(cow_control_receive(client, CLIENT_TIMEOUT_MS, &ignored));
		tell_end(client, error);
	}
}

/* The detacher hears last: when it does, everything is gone but this process. */
static int finish(struct server *server)
{
	struct cow_error err = { 0 };
	int ret = cow_device_close(&server->device, &err);
	cow_record_remove(server->device.id);
	if (ret)
		cow_log(COW_LOG_ERR, "%s: %s", server->config->image_path, err.text);
	tell_end(server->detacher, ret ? err.text : NULL);
	answer_late_clients(server, ret ? err.text : NULL);
	close(server->listen_fd);
	return ret ? 1 : 0;
}

static int go(struct server *server, struct cow_error *err)
{
	int ret = open_signals(server, err);
	if (ret)
		return ret;
	ret = cow_device_open(&server->device, &server->config->device, err);
	if (ret)
		goto close_signals;
	fill_record(server);
	ret = publish(server, err);
	if (!ret)
		return 0;

	cow_device_stop(&server->device, true, NULL);
	cow_device_close(&server->device, err);
close_signals:
	close(server->signal_fd);
	return ret;
}

int cow_server_run(const struct cow_server_config *config)
{
	struct server server = { .config = config, .listen_fd = -1, .detacher = -1 };
	struct cow_error err = { 0 };
	if (go(&server, &err)) {
		config->announce(config->ctx, NULL, err.text);
		return 1;
	}
	cow_report_systemd("READY=1");
	if (!config->announce(config->ctx, server.device.path, NULL)) {
		cow_device_stop(&server.device, true, NULL);
		server.ending = true;
	} else if (!config->foreground) {
		cow_report_leave_terminal(server.device.id);
	}
	serve(&server);
	int status = finish(&server);
	close(server.signal_fd);
	return status;
}
