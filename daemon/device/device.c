/* SPDX-License-Identifier: MIT */
/* See device.h. In this order: the image; the kernel's device; the queues; start; stop. */
#include "daemon/device/device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "daemon/device/harden.h"
#include "daemon/device/params.h"
#include "daemon/device/partitions.h"
#include "daemon/device/stop.h"
#include "daemon/device/sync_all.h"
#include "daemon/device/temporary.h"
#include "daemon/device/trial.h"
#include "engine/base/assert.h"
#include "engine/base/log.h"
#include "engine/host/system.h"
#include "engine/loop/loop_uring.h"

#define CONTROL_LOOP_DEPTH 32
#define POLL_MS 10
#define NODE_WAIT_MS 10000
#define RECOVERY_WAIT_MS 20000
/* For the last of the kernel to let go, so that the id can be used again. */
#define DELETE_WAIT_MS 2000
/* For all of the machine's file systems, where the device's cannot be found. */
#define SYNC_LIMIT_S 30u

static const char *state_name(enum cow_device_state state)
{
	static const char *const names[] = {
		[COW_DEVICE_NEW] = "new",	  [COW_DEVICE_ADDED] = "added",
		[COW_DEVICE_SERVING] = "serving", [COW_DEVICE_LIVE] = "live",
		[COW_DEVICE_STOPPED] = "stopped", [COW_DEVICE_CLOSED] = "closed",
	};
	return names[state];
}

static void enter_state(struct cow_device *dev, enum cow_device_state state)
{
	cow_log(COW_LOG_DEBUG, "%s: %s -> %s", dev->disk[0] ? dev->disk : "device",
		state_name(dev->state), state_name(state));
	dev->state = state;
}

static void sleep_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 },
		  NULL);
}

/* ---- the image ---- */

static int open_image(struct cow_device *dev, const struct cow_device_config *config,
		      struct cow_error *err)
{
	struct cow_open_options open = config->open;
	int ret = cow_memory_init(&dev->memory);
	if (ret)
		return cow_error_set(err, ret, "eventfd: %s", strerror(-ret));
	open.want_memory = cow_memory_want;
	open.want_memory_ctx = &dev->memory;
	ret = cow_loop_uring_new(CONTROL_LOOP_DEPTH, &dev->loop);
	if (ret) {
		cow_memory_fini(&dev->memory);
		return cow_error_set(err, ret, "io_uring: %s", strerror(-ret));
	}
	cow_loop_enter(dev->loop);
	dev->temporary = config->temporary;
	if (config->temporary)
		ret = cow_temporary_open(dev->loop, config->image_path, &open, &dev->image, err);
	else
		ret = cow_image_open(cow_host_system(), dev->loop, config->image_path, &open,
				     &dev->image, err);
	if (ret) {
		cow_error_set(err, ret, "%s: %s", config->image_path, strerror(-ret));
		cow_loop_free(dev->loop);
		cow_memory_fini(&dev->memory);
		return ret;
	}
	dev->geometry = *cow_image_geometry(dev->image);
	return 0;
}

static int close_image(struct cow_device *dev, struct cow_error *err)
{
	int ret = cow_image_close(dev->image, dev->loop, err);
	if (ret)
		cow_error_set(err, ret, "closing the image: %s: run `cowblk check` on it",
			      strerror(-ret));
	cow_loop_free(dev->loop);
	cow_memory_fini(&dev->memory);
	return ret;
}

/* ---- the kernel's device ---- */

static int add_error(int code, uint32_t id, struct cow_error *err)
{
	switch (code) {
	case -EEXIST:
		return cow_error_set(err, code,
				     "--id %u: taken: leave --id out, or see `cowblk list`", id);
	case -EACCES:
	case -ENOSPC:
		return cow_error_set(err, code,
				     "the kernel has no room for another ublk device: detach some");
	case -EPERM:
		return cow_error_set(err, code, "ublk: not permitted: run as root");
	default:
		return cow_error_set(err, code, "ublk: cannot add a device: %s", strerror(-code));
	}
}

static uint64_t wanted_flags(const struct cow_device *dev, const struct cow_device_config *config)
{
	/*
	 * Where the kernel can leave the scan to us we do it ourselves and know when it is
	 * finished.
	 */
	uint64_t flags =
		UB_F_CMD_IOCTL_ENCODE | UB_F_NO_AUTO_PART_SCAN | config->transfer->device_flags;
	if (config->recovery)
		flags |= UB_F_USER_RECOVERY | UB_F_USER_RECOVERY_REISSUE;
	return dev->ctrl.features ? flags & (dev->ctrl.features | config->transfer->device_flags)
				  : flags;
}

/* The kernel gives no more queues than there are CPUs. */
static unsigned possible_queues(const struct cow_device_config *config)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	return cpus > 0 && (unsigned long)cpus < config->queues ? (unsigned)cpus : config->queues;
}

static void take_info(struct cow_device *dev, const struct ub_dev_info *info)
{
	dev->id = info->dev_id;
	dev->flags = info->flags;
	dev->cookie = info->ublksrv_flags;
	dev->nr_queues = info->nr_hw_queues;
	dev->depth = info->queue_depth;
	dev->buffer_bytes = info->max_io_buf_bytes;
	snprintf(dev->disk, sizeof(dev->disk), "ublkb%u", dev->id);
	snprintf(dev->path, sizeof(dev->path), "/dev/%s", dev->disk);
}

uint64_t cow_device_new_cookie(void)
{
	uint32_t random;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return 0;
	return (uint64_t)COW_DEVICE_COOKIE_MARK << 32 | random;
}

static int add_device(struct cow_device *dev, const struct cow_device_config *config,
		      struct cow_error *err)
{
	dev->buffer_bytes = cow_params_buffer_bytes(possible_queues(config), config->depth);
	dev->cookie = config->cookie ? config->cookie : cow_device_new_cookie();
	if (!dev->cookie)
		return cow_error_set(err, -EIO, "getrandom: %s", strerror(errno));
	struct ub_dev_info info = {
		.nr_hw_queues = (uint16_t)possible_queues(config),
		.queue_depth = (uint16_t)config->depth,
		.max_io_buf_bytes = dev->buffer_bytes,
		.dev_id = config->id,
		.ublksrv_pid = -1,
		.flags = wanted_flags(dev, config),
		.ublksrv_flags = dev->cookie,
	};
	int ret = cow_ctrl_add(&dev->ctrl, &info);
	if (ret)
		return add_error(ret, config->id, err);
	take_info(dev, &info);
	if (config->recovery && !(dev->flags & UB_F_USER_RECOVERY_REISSUE)) {
		COW_IGNORE(cow_ctrl_delete(&dev->ctrl, dev->id, DELETE_WAIT_MS));
		return cow_error_set(err, -EOPNOTSUPP,
				     "ublk: this kernel gives the device no recovery: attach with "
				     "--no-recovery");
	}
	if (config->transfer->device_flags & ~dev->flags) {
		COW_IGNORE(cow_ctrl_delete(&dev->ctrl, dev->id, DELETE_WAIT_MS));
		return cow_error_set(err, -EOPNOTSUPP,
				     "--transfer %s: this kernel cannot do that: use copy",
				     config->transfer->name);
	}
	ret = cow_keeper_serve(&dev->keeper, dev->id, dev->cookie, config->supervisor);
	if (ret) {
		COW_IGNORE(cow_ctrl_delete(&dev->ctrl, dev->id, DELETE_WAIT_MS));
		return cow_error_set(err, ret, "the daemon's keeper: %s", strerror(-ret));
	}
	enter_state(dev, COW_DEVICE_ADDED);
	return 0;
}

/* The kernel notices that a daemon died soon after it did. */
static int start_recovery(struct cow_device *dev, struct cow_error *err)
{
	int ret;
	for (unsigned ms = 0;; ms += POLL_MS) {
		ret = cow_ctrl_start_recovery(&dev->ctrl, dev->id);
		if (ret != -EBUSY || ms >= RECOVERY_WAIT_MS)
			break;
		sleep_ms(POLL_MS);
	}
	return ret ? cow_error_set(err, ret, "%s: the kernel cannot recover it: %s", dev->path,
				   strerror(-ret))
		   : 0;
}

static int take_over(struct cow_device *dev, const struct cow_device_config *config,
		     struct cow_error *err)
{
	const struct cow_device_left *left = config->left;
	struct ub_dev_info info;
	int ret = cow_ctrl_get_info(&dev->ctrl, left->id, &info);
	if (!ret && (info.ublksrv_flags != left->cookie || info.state == UB_S_DEV_DEAD))
		ret = -ENODEV;
	if (ret)
		return cow_error_set(err, ret, "/dev/ublkb%u: is gone", left->id);
	take_info(dev, &info);
	ret = start_recovery(dev, err);
	if (ret)
		return ret;
	ret = cow_keeper_serve(&dev->keeper, dev->id, dev->cookie, config->supervisor);
	if (ret)
		return cow_error_set(err, ret, "the daemon's keeper: %s", strerror(-ret));
	enter_state(dev, COW_DEVICE_ADDED);
	return 0;
}

static int set_params(struct cow_device *dev, const struct cow_device_config *config,
		      struct cow_error *err)
{
	struct ub_params params;
	if (dev->geometry.size_bytes % config->block_bytes)
		return cow_error_set(err, -EINVAL,
				     "%s: its size, %llu, is no multiple of the block size %u: "
				     "leave out --block-size",
				     config->image_path,
				     (unsigned long long)dev->geometry.size_bytes,
				     config->block_bytes);
	cow_params_fill(&params, &dev->geometry, config->block_bytes, dev->buffer_bytes,
			!config->open.no_discard);
	if (config->transfer->registers) { /* else what direct I/O refuses gets there */
		params.types |= UB_PARAM_TYPE_DMA_ALIGN;
		params.dma.alignment = 511;
	}
	int ret = cow_ctrl_set_params(&dev->ctrl, dev->id, &params);
	if (ret)
		return cow_error_set(err, ret,
				     "ublk: the kernel refused the device's parameters: %s",
				     strerror(-ret));
	return 0;
}

/*
 * The node is made by the kernel, but its permissions may be udev's. Who looks for leftovers opens it
 * for a moment.
 */
static int open_char(struct cow_device *dev, struct cow_error *err)
{
	char path[32];
	snprintf(path, sizeof(path), "/dev/ublkc%u", dev->id);
	for (unsigned ms = 0;; ms += POLL_MS) {
		dev->char_fd = open(path, O_RDWR | O_CLOEXEC);
		if (dev->char_fd >= 0)
			return 0;
		if ((errno != ENOENT && errno != EBUSY) || ms >= NODE_WAIT_MS)
			break;
		sleep_ms(POLL_MS);
	}
	return cow_error_set(err, -errno, "%s: %s", path, strerror(errno));
}

/* ---- the queues ---- */

static void choose_cpus(struct cow_device *dev, const struct cow_affinity *affinity,
			struct cow_uqueue_config *queue)
{
	cpu_set_t submitters, allowed;
	queue->pinned = false;
	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		return;
	if (cow_ctrl_queue_cpus(&dev->ctrl, dev->id, queue->idx, &submitters))
		CPU_ZERO(&submitters);
	queue->pinned = cow_affinity_choose(affinity, &submitters, &allowed, &queue->cpus);
}

static void stop_queues(struct cow_device *dev, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		cow_uqueue_stop(&dev->queues[i]);
	for (unsigned i = 0; i < nr; i++)
		cow_uqueue_free(&dev->queues[i]);
}

static int start_queues(struct cow_device *dev, const struct cow_device_config *config,
			struct cow_error *err)
{
	struct cow_uqueue_config queue = {
		.image = dev->image,
		.transfer = config->transfer,
		.char_fd = dev->char_fd,
		.event_fd = dev->event_fd,
		.answer_fd = dev->answer_fd,
		.depth = dev->depth,
		.buffer_bytes = dev->buffer_bytes,
		.keep_memory = config->open.keep_memory,
		.sandbox = &dev->sandbox,
	};
	for (unsigned i = 0; i < dev->nr_queues; i++) {
		queue.idx = i;
		choose_cpus(dev, &config->affinity, &queue);
		int ret = cow_uqueue_start(&dev->queues[i], &queue);
		if (ret) {
			stop_queues(dev, i);
			return cow_error_set(err, ret, "queue %u: cannot serve: %s", i,
					     strerror(-ret));
		}
	}
	return 0;
}

static int serve(struct cow_device *dev, const struct cow_device_config *config,
		 struct cow_error *err)
{
	dev->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (dev->event_fd < 0)
		return cow_error_set(err, -errno, "eventfd: %s", strerror(errno));
	dev->answer_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int ret = dev->answer_fd < 0 ? -errno : -ENOMEM;
	if (dev->answer_fd < 0)
		goto close_event;
	dev->queues = calloc(dev->nr_queues, sizeof(*dev->queues));
	if (!dev->queues)
		goto close_answer;
	ret = start_queues(dev, config, err);
	if (ret)
		goto free_queues;
	dev->memory.disk = dev->disk;
	dev->memory.image = dev->image;
	dev->memory.queues = dev->queues;
	dev->memory.nr_queues = dev->nr_queues;
	ret = cow_memory_start(&dev->memory, &dev->sandbox);
	if (ret) {
		stop_queues(dev, dev->nr_queues);
		goto free_queues;
	}
	enter_state(dev, COW_DEVICE_SERVING);
	return 0;

free_queues:
	free(dev->queues);
close_answer:
	close(dev->answer_fd);
close_event:
	close(dev->event_fd);
	return cow_error_set(err, ret, "the device's queues: %s", strerror(-ret));
}

static void end_service(struct cow_device *dev)
{
	cow_memory_stop(&dev->memory);
	stop_queues(dev, dev->nr_queues);
	free(dev->queues);
	close(dev->answer_fd);
	close(dev->event_fd);
}

/* ---- start ---- */

static bool node_is_there(const struct cow_device *dev, const struct ub_param_devt *devt)
{
	struct stat st;
	return !stat(dev->path, &st) && S_ISBLK(st.st_mode) &&
	       major(st.st_rdev) == devt->disk_major && minor(st.st_rdev) == devt->disk_minor;
}

static int wait_node(struct cow_device *dev, struct cow_error *err)
{
	struct ub_params params;
	int ret = cow_ctrl_get_params(&dev->ctrl, dev->id, &params);
	if (ret)
		return cow_error_set(err, ret, "ublk: cannot ask for the device number: %s",
				     strerror(-ret));
	for (unsigned ms = 0; ms < NODE_WAIT_MS; ms += POLL_MS) {
		if (node_is_there(dev, &params.devt))
			return 0;
		sleep_ms(POLL_MS);
	}
	return cow_error_set(err, -ETIMEDOUT,
			     "%s: did not appear: is /dev a devtmpfs, does udev run?", dev->path);
}

/* Nothing of it makes the attach fail: the user can scan by hand (partx). */
static void arrange_partitions(struct cow_device *dev, bool wanted)
{
	bool left_to_us = dev->flags & UB_F_NO_AUTO_PART_SCAN;
	int ret = cow_keeper_arrange_partitions(
		&dev->keeper, left_to_us ? wanted ? COW_PARTITIONS_SCAN : COW_PARTITIONS_LEAVE
			      : wanted	 ? COW_PARTITIONS_CHECK
					 : COW_PARTITIONS_REMOVE);
	if (ret == COW_PARTITIONS_AT_4096)
		cow_log(COW_LOG_WARNING,
			"%s: its partition table is for 4096-byte sectors: attach with "
			"--block-size 4096",
			dev->path);
	if (ret < 0)
		cow_log(COW_LOG_WARNING, "%s: partitions: %s", dev->path, strerror(-ret));
}

/* Requests that waited come now, and those that were in flight come again. */
static int go_on(struct cow_device *dev, struct cow_error *err)
{
	int ret = cow_ctrl_end_recovery(&dev->ctrl, dev->id, getpid());
	if (ret)
		return cow_error_set(err, ret, "ublk: cannot end the recovery: %s", strerror(-ret));
	enter_state(dev, COW_DEVICE_LIVE);
	return 0;
}

static int go_live(struct cow_device *dev, const struct cow_device_config *config,
		   struct cow_error *err)
{
	if (config->left)
		return go_on(dev, err);
	int ret = cow_keeper_start_device(&dev->keeper);
	if (ret)
		return cow_error_set(err, ret, "ublk: cannot start the device: %s", strerror(-ret));
	enter_state(dev, COW_DEVICE_LIVE);
	ret = wait_node(dev, err);
	if (ret) {
		COW_IGNORE(cow_ctrl_stop(&dev->ctrl, dev->id));
		return ret;
	}
	arrange_partitions(dev, config->partition_scan);
	return 0;
}

int cow_device_open(struct cow_device *dev, const struct cow_device_config *config,
		    struct cow_error *err)
{
	memset(dev, 0, sizeof(*dev));
	int ret = cow_keeper_start(&dev->keeper, &config->hooks, err);
	if (ret)
		return ret;
	ret = cow_ctrl_open(&dev->ctrl, err);
	if (ret)
		goto end_keeper;
	cow_harden_memory();
	ret = open_image(dev, config, err);
	if (ret)
		goto close_ctrl;
	cow_sandbox_prepare(&dev->sandbox);
	cow_trial_run(&dev->sandbox, dev->image);
	cow_harden_drop_privileges();
	if (config->left)
		ret = take_over(dev, config, err);
	else
		ret = add_device(dev, config, err);
	if (ret)
		goto close_image;
	ret = config->left ? 0 : set_params(dev, config, err);
	if (ret)
		goto delete_device;
	ret = open_char(dev, err);
	if (ret)
		goto delete_device;
	ret = serve(dev, config, err);
	if (ret)
		goto close_char;
	ret = go_live(dev, config, err);
	if (ret)
		goto end_service;
	return 0;

end_service:
	end_service(dev);
close_char:
	close(dev->char_fd);
delete_device:
	if (!config->left) /* else it is there for the next one to try */
		COW_IGNORE(cow_ctrl_delete(&dev->ctrl, dev->id, DELETE_WAIT_MS));
close_image:
	close_image(dev, err);
close_ctrl:
	cow_ctrl_close(&dev->ctrl);
end_keeper:
	cow_keeper_end(&dev->keeper);
	return ret;
}

void cow_device_confine(struct cow_device *dev, const char *run_dir)
{
	cow_assert(dev->state == COW_DEVICE_LIVE && !dev->confined);
	cow_ctrl_close(&dev->ctrl);
	dev->confined = true;
	cow_sandbox_enter(&dev->sandbox, run_dir);
}

/* ---- stop ---- */

int cow_device_stop(struct cow_device *dev, const atomic_bool *given_up, struct cow_error *err)
{
	cow_assert(dev->state == COW_DEVICE_LIVE);
	int ret = cow_stop_unused(dev, given_up, err);
	dev->unused = !ret;
	if (!ret)
		enter_state(dev, COW_DEVICE_STOPPED);
	return ret;
}

int cow_device_force_stop(struct cow_device *dev, struct cow_error *err)
{
	cow_assert(dev->state == COW_DEVICE_LIVE);
	/* The kernel writes mounted file systems back before it takes the device away. */
	int ret = cow_keeper_stop(&dev->keeper);
	if (ret)
		return cow_stop_cannot(dev, ret, err);
	enter_state(dev, COW_DEVICE_STOPPED);
	return 0;
}

int cow_device_write_back(struct cow_device *dev, struct cow_error *err)
{
	int ret = cow_keeper_write_back(&dev->keeper, err);
	if (ret != -EPIPE)
		return ret;
	*err = (struct cow_error){ 0 };
	return cow_sync_all(SYNC_LIMIT_S, err);
}

void cow_device_abandon(struct cow_device *dev)
{
	cow_assert(dev->state == COW_DEVICE_LIVE);
	for (unsigned i = 0; i < dev->nr_queues; i++)
		cow_uqueue_abandon(&dev->queues[i]);
	enter_state(dev, COW_DEVICE_STOPPED);
}

bool cow_device_drained(const struct cow_device *dev)
{
	for (unsigned i = 0; i < dev->nr_queues; i++)
		if (!cow_uqueue_drained(&dev->queues[i]))
			return false;
	return true;
}

static void wait_drained(const struct cow_device *dev)
{
	while (!cow_device_drained(dev))
		sleep_ms(1);
}

int cow_device_close(struct cow_device *dev, struct cow_error *err)
{
	wait_drained(dev);
	end_service(dev);
	int ret = close_image(dev, err);
	close(dev->char_fd);
	int deleted = cow_keeper_delete(&dev->keeper, dev->unused ? DELETE_WAIT_MS : 0);
	if (deleted == -EPIPE)
		cow_log(COW_LOG_WARNING,
			"%s: its keeper is gone: the kernel takes the device away, `cowblk detach` "
			"what is left",
			dev->path);
	else if (deleted && deleted != -ENODEV)
		cow_log(COW_LOG_WARNING, "%s: cannot delete the device: %s", dev->path,
			strerror(-deleted));
	cow_keeper_end(&dev->keeper);
	if (!dev->confined)
		cow_ctrl_close(&dev->ctrl);
	enter_state(dev, COW_DEVICE_CLOSED);
	if (ret || !dev->lost || dev->temporary)
		return ret;
	return cow_error_set(err, dev->lost,
			     "%s: detached, but writes had failed (%s): what was not written "
			     "again since is lost",
			     dev->path, strerror(-dev->lost));
}
