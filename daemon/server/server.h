/* SPDX-License-Identifier: MIT */
/* The daemon of one device, from attach to its end, on two threads: server.c. */
#ifndef COW_SERVER_H
#define COW_SERVER_H

#include "daemon/device/device.h"
#include "engine/base/result.h"

struct cow_server_config {
	struct cow_device_config device;
	const char *image_path; /* absolute, for messages */
	bool foreground;
	/*
	 * Called once: when the device is ready (error NULL), or when it could not be made (one
	 * line). False: nobody listens any more, give up. With a supervisor that is who says that
	 * it is ready.
	 */
	bool (*announce)(void *ctx, const char *device, const char *error);
	void (*leave)(void *ctx);  /* instead: this process will announce nothing */
	void (*forget)(void *ctx); /* this process needs no passphrase any more */
	void *ctx;
	const char
		*no_recovery; /* for the log: why it does not outlive its daemon; NULL: nothing */
	/* supervise.h, which sets them; all 0: nobody supervises */
	int supervisor_fd;
	bool is_successor; /* of one that died at died_ms: nothing is announced */
	uint64_t died_ms;  /* CLOCK_MONOTONIC */
};

/* Of a successor: the image or the kernel's device could not be had; another one may succeed. */
#define COW_SERVER_TRY_AGAIN 75

/* Returns the exit status when the device is detached. */
COW_MUST_CHECK int cow_server_run(const struct cow_server_config *config);

#endif
