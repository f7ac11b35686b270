/* SPDX-License-Identifier: MIT */
/* See ask_resize.h. In this order: the daemon and the kernel; growing; shrinking; one at a time. */
#include "daemon/client/ask_resize.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "daemon/client/ask.h"
#include "daemon/client/shrink.h"
#include "daemon/options/cmd.h"
#include "daemon/control/control.h"
#include "daemon/device/ctrl.h"

#define POLL_MS 20u
#define WORD_AFTER_MS 2000u

/* ---- the daemon and the kernel ---- */

static void show_pause(struct json_object *reply)
{
	struct json_object *pause;
	if (isatty(STDERR_FILENO) && json_object_object_get_ex(reply, "pause_ms", &pause) &&
	    json_object_get_double(pause) > 0)
		fprintf(stderr, "requests waited for %.1f ms\n", json_object_get_double(pause));
}

/* *answered: the daemon has said what it did; else nobody knows whether it did it. */
static int ask(struct cow_target target, const struct cow_resize_options *options, uint64_t *bytes,
	       bool *answered)
{
	struct cow_talk talk;
	struct json_object *request = json_object_new_object(), *reply;
	int error;
	json_object_object_add(request, "cmd", json_object_new_string("resize"));
	json_object_object_add(request, "bytes", json_object_new_uint64(options->bytes));
	json_object_object_add(request, "sign", json_object_new_int(options->sign));
	json_object_object_add(request, "shrink", json_object_new_boolean(options->shrink));
	reply = cow_ask_within(&talk, target, request, COW_ASK_LIMIT_MS, UINT_MAX, &error);
	cow_talk_close(&talk);
	*answered = reply != NULL;
	if (!reply)
		return cow_ask_fail(target.id, error);
	*bytes = cow_control_number(reply, "size");
	if (!cow_control_reply_error(reply))
		show_pause(reply);
	return cow_ask_show_error(target.id, reply);
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

/* ---- growing ---- */

static int grow(struct cow_ctrl *ctrl, struct cow_target target,
		const struct cow_resize_options *options)
{
	uint64_t bytes;
	bool answered;
	int status = ask(target, options, &bytes, &answered);
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

/* ---- shrinking ---- */

/*
 * The kernel first: it must not send what the image no longer has. A daemon that refuses leaves both
 * as they were. One that has died may have done it: then the device stays small, and all is safe.
 */
static int shrink_claimed(struct cow_ctrl *ctrl, struct cow_target target, uint64_t old,
			  uint64_t bytes)
{
	const struct cow_resize_options options = { .bytes = bytes, .shrink = true };
	uint64_t now = 0;
	bool answered;
	int ret = tell_kernel(ctrl, target, bytes);
	if (ret)
		return cow_cmd_fail("/dev/ublkb%u: the kernel does not make it smaller: %s",
				    target.id, strerror(-ret));
	int status = ask(target, &options, &now, &answered);
	if (!status)
		return 0;
	/* Never more than what the image has, which another word of the daemon's may have told. */
	ret = answered ? tell_kernel(ctrl, target, now && now < old ? now : old) : 0;
	if (!answered || ret)
		fprintf(stderr,
			"cowblk: /dev/ublkb%u: has %" PRIu64
			" bytes, and its image perhaps more: resize it again\n",
			target.id, bytes);
	return status;
}

static int shrink(struct cow_ctrl *ctrl, struct cow_target target, uint64_t old, uint64_t bytes)
{
	char disk[32];
	int claim;
	snprintf(disk, sizeof(disk), "ublkb%u", target.id);
	int status = cow_shrink_claim(disk, bytes, &claim);
	if (status)
		return status;
	status = shrink_claimed(ctrl, target, old, bytes);
	if (claim >= 0)
		close(claim);
	return status;
}

static int look_at_device(uint32_t id, uint64_t *bytes, uint32_t *block_bytes)
{
	char path[32];
	int block, ret = 0;
	snprintf(path, sizeof(path), "/dev/ublkb%u", id);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, bytes) || ioctl(fd, BLKSSZGET, &block))
		ret = cow_cmd_fail("%s: %s", path, strerror(errno));
	else
		*block_bytes = (uint32_t)block;
	if (fd >= 0)
		close(fd);
	return ret;
}

/* Where the device is not to become smaller the daemon says what is wrong with the size. */
static bool makes_smaller(const struct cow_resize_options *options, uint64_t old, uint64_t *bytes)
{
	*bytes = options->sign < 0 ? old - options->bytes : options->bytes;
	return options->sign <= 0 && *bytes < old;
}

static int resize(struct cow_ctrl *ctrl, struct cow_target target,
		  const struct cow_resize_options *options)
{
	uint64_t old, bytes;
	uint32_t block_bytes = 512;
	if (!(ctrl->features & UB_F_UPDATE_SIZE))
		return cow_cmd_fail("/dev/ublkb%u: this kernel cannot change the size of an "
				    "attached device (Linux 6.16 can): detach it first",
				    target.id);
	int status = look_at_device(target.id, &old, &block_bytes);
	if (status)
		return status;
	if (!options->shrink || !makes_smaller(options, old, &bytes))
		return grow(ctrl, target, options);
	if (!bytes || bytes % block_bytes)
		return cow_cmd_fail("/dev/ublkb%u: size %" PRIu64 ": must be a multiple of %" PRIu32
				    " bytes, and not 0",
				    target.id, bytes, block_bytes);
	return shrink(ctrl, target, old, bytes);
}

/* ---- one at a time ---- */

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
