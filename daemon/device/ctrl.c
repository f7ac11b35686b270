/* SPDX-License-Identifier: MIT */
/*
 * Control commands. Most of them sleep in the kernel, so io_uring runs them on a worker; the caller
 * waits here for the one completion. The ring has 128-byte SQEs because the command does not fit
 * into the usual area.
 */
#include "daemon/device/ctrl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/number.h"

static int run_command(struct cow_ctrl *ctrl, uint32_t op, const struct ub_ctrl_cmd *cmd)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ctrl->ring);
	if (!sqe)
		return -EBUSY;
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = ctrl->fd;
	sqe->cmd_op = op;
	memcpy(sqe->cmd, cmd, sizeof(*cmd));

	int ret;
	do
		ret = io_uring_submit_and_wait(&ctrl->ring, 1);
	while (ret == -EINTR || ret == -EAGAIN);
	if (ret < 0)
		return ret;
	struct io_uring_cqe *cqe;
	do
		ret = io_uring_wait_cqe(&ctrl->ring, &cqe);
	while (ret == -EINTR);
	if (ret < 0)
		return ret;
	ret = cqe->res;
	io_uring_cqe_seen(&ctrl->ring, cqe);
	return ret < 0 ? ret : 0;
}

static struct ub_ctrl_cmd command_for(uint32_t id)
{
	return (struct ub_ctrl_cmd){ .dev_id = id, .queue_id = UB_NO_QUEUE };
}

static int run_with_buffer(struct cow_ctrl *ctrl, uint32_t op, uint32_t id, void *buf, size_t len)
{
	struct ub_ctrl_cmd cmd = command_for(id);
	cmd.addr = (uintptr_t)buf;
	cmd.len = (uint16_t)len;
	return run_command(ctrl, op, &cmd);
}

static int run_plain(struct cow_ctrl *ctrl, uint32_t op, uint32_t id, uint64_t data)
{
	struct ub_ctrl_cmd cmd = command_for(id);
	cmd.data[0] = data;
	return run_command(ctrl, op, &cmd);
}

static int open_error(int code, struct cow_error *err)
{
	switch (code) {
	case -ENOENT:
	case -ENXIO:
	case -ENODEV:
		return cow_error_set(
			err, -ENODEV,
			UB_CONTROL_PATH
			": the kernel has no ublk driver loaded: run `modprobe ublk_drv` "
			"(Linux 6.0 or newer)");
	case -EACCES:
	case -EPERM:
		return cow_error_set(err, -EPERM, UB_CONTROL_PATH ": not permitted: run as root");
	default:
		return cow_error_set(err, code, UB_CONTROL_PATH ": %s", strerror(-code));
	}
}

static int setup_ring(struct io_uring *ring, struct cow_error *err)
{
	int ret = io_uring_queue_init(4, ring, IORING_SETUP_SQE128);
	if (ret == -EPERM)
		return cow_error_set(err, ret,
				     "io_uring: not permitted: set kernel.io_uring_disabled=0");
	if (ret == -ENOSYS || ret == -EINVAL)
		return cow_error_set(
			err, ret,
			"io_uring: this kernel lacks what ublk needs: use Linux 6.0 or newer");
	if (ret)
		return cow_error_set(err, ret, "io_uring: %s", strerror(-ret));
	return 0;
}

int cow_ctrl_open(struct cow_ctrl *ctrl, struct cow_error *err)
{
	ctrl->fd = open(UB_CONTROL_PATH, O_RDWR | O_CLOEXEC);
	if (ctrl->fd < 0)
		return open_error(-errno, err);
	int ret = setup_ring(&ctrl->ring, err);
	if (ret) {
		close(ctrl->fd);
		return ret;
	}
	io_uring_ring_dontfork(&ctrl->ring);
	uint64_t features = 0;
	ret = run_with_buffer(ctrl, UB_CMD_GET_FEATURES, UB_ANY_ID, &features, UB_FEATURES_BYTES);
	ctrl->features = ret ? 0 : features;
	return 0;
}

void cow_ctrl_close(struct cow_ctrl *ctrl)
{
	io_uring_queue_exit(&ctrl->ring);
	close(ctrl->fd);
}

int cow_ctrl_add(struct cow_ctrl *ctrl, struct ub_dev_info *info)
{
	return run_with_buffer(ctrl, UB_CMD_ADD_DEV, info->dev_id, info, sizeof(*info));
}

/* The next one may have its id before we look again. */
static bool is_there(struct cow_ctrl *ctrl, uint32_t id, uint64_t cookie)
{
	struct ub_dev_info info;
	return !cow_ctrl_get_info(ctrl, id, &info) && info.ublksrv_flags == cookie;
}

int cow_ctrl_delete(struct cow_ctrl *ctrl, uint32_t id, unsigned wait_ms)
{
	struct ub_dev_info info;
	int ret = cow_ctrl_get_info(ctrl, id, &info);
	if (ret)
		return ret;
	ret = run_plain(ctrl, UB_CMD_DEL_DEV_ASYNC, id, 0);
	if (ret == -EOPNOTSUPP)
		return run_plain(ctrl, UB_CMD_DEL_DEV, id, 0);
	for (unsigned ms = 0; !ret && ms < wait_ms && is_there(ctrl, id, info.ublksrv_flags); ms++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	return ret;
}

/* Kernels drop in silence what they do not know. */
static bool are_kept(const struct ub_params *asked, const struct ub_params *kept)
{
	const uint32_t types = asked->types;
	return (kept->types & types) == types &&
	       !memcmp(&asked->basic, &kept->basic, sizeof(asked->basic)) &&
	       (!(types & UB_PARAM_TYPE_DISCARD) ||
		!memcmp(&asked->discard, &kept->discard, sizeof(asked->discard))) &&
	       (!(types & UB_PARAM_TYPE_DMA_ALIGN) || asked->dma.alignment == kept->dma.alignment);
}

int cow_ctrl_set_params(struct cow_ctrl *ctrl, uint32_t id, const struct ub_params *params)
{
	struct ub_params copy = *params, kept;
	copy.len = sizeof(copy);
	int ret = run_with_buffer(ctrl, UB_CMD_SET_PARAMS, id, &copy, sizeof(copy));
	if (!ret)
		ret = cow_ctrl_get_params(ctrl, id, &kept);
	return ret ? ret : are_kept(params, &kept) ? 0 : -EOPNOTSUPP;
}

int cow_ctrl_get_params(struct cow_ctrl *ctrl, uint32_t id, struct ub_params *params)
{
	memset(params, 0, sizeof(*params));
	params->len = sizeof(*params);
	return run_with_buffer(ctrl, UB_CMD_GET_PARAMS, id, params, sizeof(*params));
}

int cow_ctrl_get_info(struct cow_ctrl *ctrl, uint32_t id, struct ub_dev_info *info)
{
	memset(info, 0, sizeof(*info));
	return run_with_buffer(ctrl, UB_CMD_GET_DEV_INFO, id, info, sizeof(*info));
}

int cow_ctrl_find(struct cow_ctrl *ctrl, uint64_t cookie, uint32_t *id)
{
	DIR *d = opendir("/sys/class/ublk-char");
	struct dirent *e;
	int ret = d ? -ENODEV : -errno;
	while (ret && d && (e = readdir(d))) {
		uint64_t number;
		if (strncmp(e->d_name, "ublkc", 5) ||
		    !cow_number_parse(e->d_name + 5, UB_ANY_ID - 1, &number) ||
		    !is_there(ctrl, (uint32_t)number, cookie))
			continue;
		*id = (uint32_t)number;
		ret = 0;
	}
	if (d)
		closedir(d);
	return ret;
}

int cow_ctrl_queue_cpus(struct cow_ctrl *ctrl, uint32_t id, unsigned queue, cpu_set_t *cpus)
{
	struct ub_ctrl_cmd cmd = command_for(id);
	cmd.addr = (uintptr_t)cpus;
	cmd.len = sizeof(*cpus);
	cmd.data[0] = queue;
	CPU_ZERO(cpus);
	return run_command(ctrl, UB_CMD_GET_QUEUE_AFFINITY, &cmd);
}

int cow_ctrl_set_size(struct cow_ctrl *ctrl, uint32_t id, uint64_t bytes)
{
	return run_plain(ctrl, UB_CMD_UPDATE_SIZE, id, bytes >> 9);
}

int cow_ctrl_start(struct cow_ctrl *ctrl, uint32_t id, pid_t daemon)
{
	return run_plain(ctrl, UB_CMD_START_DEV, id, (uint64_t)daemon);
}

int cow_ctrl_start_recovery(struct cow_ctrl *ctrl, uint32_t id)
{
	return run_plain(ctrl, UB_CMD_START_USER_RECOVERY, id, 0);
}

int cow_ctrl_end_recovery(struct cow_ctrl *ctrl, uint32_t id, pid_t daemon)
{
	return run_plain(ctrl, UB_CMD_END_USER_RECOVERY, id, (uint64_t)daemon);
}

int cow_ctrl_stop(struct cow_ctrl *ctrl, uint32_t id)
{
	return run_plain(ctrl, UB_CMD_STOP_DEV, id, 0);
}

int cow_ctrl_try_stop(struct cow_ctrl *ctrl, uint32_t id)
{
	if (!(ctrl->features & UB_F_SAFE_STOP_DEV))
		return -EOPNOTSUPP;
	return run_plain(ctrl, UB_CMD_TRY_STOP_DEV, id, 0);
}
