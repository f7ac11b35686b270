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
	 * line). False: nobody listens any more, give up.
	 */
	bool (*announce)(void *ctx, const char *device, const char *error);
	void *ctx;
};

/* Returns the exit status when the device is detached. */
COW_MUST_CHECK int cow_server_run(const struct cow_server_config *config);

#endif
