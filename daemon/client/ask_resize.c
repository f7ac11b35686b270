/* SPDX-License-Identifier: MIT */
#include "daemon/client/ask_resize.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/client/ask.h"
#include "daemon/options/cmd.h"
#include "daemon/control/control.h"
#include "daemon/device/ctrl.h"

#define POLL_MS 20u
#define WORD_AFTER_MS 2000u

static int ask(struct cow_target target, const struct cow_resize_options *options, uint64_t *bytes)
{
	struct cow_talk talk;
	struct json_object *request = json_object_new_object(), *reply, *pause;
	json_object_object_add(request, "cmd", json_object_new_string("resize"));
	json_object_object_add(request, "bytes", json_object_new_uint64(options->bytes));
	json_object_object_add(request, "sign", json_object_new_int(options->sign));
	int status = cow_ask(&talk, target, request, &reply);
	cow_talk_close(&talk);
	if (status)
		return status;
	*bytes = cow_control_number(reply, "size");
	if (isatty(STDERR_FILENO) && json_object_object_get_ex(reply, "pause_ms", &pause) &&
	    json_object_get_double(pause) > 0)
		fprintf(stderr, "requests waited for %.1f ms\n", json_object_get_double(pause));
	json_object_put(reply);
	return 0;
}

/* The device may have gone, and its number have come to another, since it was named. */
static int tell_kernel(struct cow_ctrl *ctrl, struct cow_target target, uint64_t bytes)
{
	struct ub_dev_info info;
	int ret = cow_ctrl_get_info(ctrl, target.id, &info);
	if (!ret && target.cookie && info.ublksrv_flags != target.cookie)
		ret = -ENODEV;
	return ret ? ret : cow_ctrl_set_size(ctrl, target.id, bytes);
}

static int resize(struct cow_ctrl *ctrl, struct cow_target target,
		  const struct cow_resize_options *options)
{
	uint64_t bytes;
	if (!(ctrl->features & UB_F_UPDATE_SIZE))
		return cow_cmd_fail("/dev/ublkb%u: this kernel cannot change the size of an "
				    "attached device (Linux 6.16 can): detach it first",
				    target.id);
	int status = ask(target, options, &bytes);
	if (status)
		return status;
	int ret = tell_kernel(ctrl, target, bytes);
	return ret ? cow_cmd_fail(
			     "/dev/ublkb%u: its image has %" PRIu64
			     " bytes now, but the kernel has not taken that: %s: resize it to just "
			     "that again, or detach and attach it",
			     target.id, bytes, strerror(-ret))
		   : 0;
}

/*
 * One at a time: what one has heard from the daemon must not reach the kernel behind what the next one has, which
 * would cut the disk short under a file system that has grown with it.
 */
static int lock_size(uint32_t id)
{
	for (unsigned ms = 0;; ms += POLL_MS) {
		int fd = cow_record_lock_size(id);
		if (fd != -EWOULDBLOCK)
			return fd;
		if (ms == WORD_AFTER_MS)
			fprintf(stderr, "cowblk: /dev/ublkb%u: waiting for another resize of it\n",
				id);
		nanosleep(&(struct timespec){ .tv_nsec = POLL_MS * 1000000l }, NULL);
	}
}

static int resize_alone(struct cow_ctrl *ctrl, struct cow_target target,
			const struct cow_resize_options *options)
{
	int lock = lock_size(target.id);
	if (lock < 0)
		return cow_cmd_fail(COW_RUN_DIR "/lock: %s", strerror(-lock));
	int status = resize(ctrl, target, options);
	close(lock);
	return status;
}

int cow_ask_resize(struct cow_target target, const struct cow_resize_options *options)
{
	struct cow_error err = { 0 };
	struct cow_ctrl ctrl;
	if (cow_ctrl_open(&ctrl, &err))
		return cow_cmd_fail("%s", err.text);
	int status = resize_alone(&ctrl, target, options);
	cow_ctrl_close(&ctrl);
	return status;
}
