/* SPDX-License-Identifier: MIT */
/*
 * The control thread: one poll() over signals, the end of the running job, the queues' word that
 * the kernel has stopped the device, and the clients. It never sleeps anywhere else, so `list` is
 * answered whatever the device is at: what takes time is a job (job.h) of the device thread.
 *
 * Jobs run one after the other: a signal's first, then the clients' in the order of their coming.
 * The request of a client that is gone is dropped; the job of one that goes is told (given_up).
 *
 * state     what is true                                       it ends with
 * LIVE      jobs run as they come                              a stop that succeeds, or somebody else's
 * STOPPED   the device has stopped; running job to end         CLOSE is posted
 * CLOSING   CLOSE runs: nothing of the device is touched here  the job's end
 * CLOSED    everybody gets a last answer                       all are told, or the deadline
 */
#ifndef COW_DISPATCH_H
#define COW_DISPATCH_H

#include "daemon/control/record.h"
#include "daemon/device/device.h"
#include "daemon/server/job.h"
#include "engine/base/result.h"

/* Constant, and valid as long as the thread runs. */
struct cow_dispatch_config {
	int signal_fd; /* signalfd: SIGTERM, SIGINT, SIGHUP, SIGUSR1; blocked in all threads */
	int listen_fd; /* non-blocking */
	const struct cow_device *device;
	const struct cow_record *record;
	const char *transfer; /* its name, for the status */
	struct cow_jobs *jobs;
	bool stopped; /* from the beginning: only to be closed */
};

struct cow_dispatch;

/* Starts the thread. 0 or -errno. */
COW_MUST_CHECK int cow_dispatch_start(struct cow_dispatch **out,
				      const struct cow_dispatch_config *config);
/* After CLOSE is over: waits until the clients are told and the thread has ended. */
void cow_dispatch_join(struct cow_dispatch *dispatch);

#endif
