/* SPDX-License-Identifier: MIT */
/*
 * /dev/ublk-control: one blocking call per command, on a ring of its own. One thread at a time.
 * All return 0 or -errno; calls about a device that does not exist return -ENODEV.
 */
#ifndef COW_CTRL_H
#define COW_CTRL_H

#include <liburing.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "uapi/ublk.h"

struct cow_ctrl {
	int fd;
	struct io_uring ring;
	uint64_t features; /* UB_F_* of the kernel; 0 on kernels that cannot be asked */
};

/* err says what to do: no module, not root, io_uring forbidden. */
COW_MUST_CHECK int cow_ctrl_open(struct cow_ctrl *ctrl, struct cow_error *err);
void cow_ctrl_close(struct cow_ctrl *ctrl);

/* info: in and out. dev_id UB_ANY_ID: the kernel chooses. -EEXIST: the id is taken. */
COW_MUST_CHECK int cow_ctrl_add(struct cow_ctrl *ctrl, struct ub_dev_info *info);
/*
 * The device goes, and its id is free, when /dev/ublkcN and the block device are closed everywhere
 * (unmounted too). Waits at most wait_ms for that, or without limit on kernels that cannot do
 * otherwise.
 */
COW_MUST_CHECK int cow_ctrl_delete(struct cow_ctrl *ctrl, uint32_t id, unsigned wait_ms);
/* -EOPNOTSUPP: read back, they are not what was set. */
COW_MUST_CHECK int cow_ctrl_set_params(struct cow_ctrl *ctrl, uint32_t id,
				       const struct ub_params *params);
COW_MUST_CHECK int cow_ctrl_get_params(struct cow_ctrl *ctrl, uint32_t id,
				       struct ub_params *params);
COW_MUST_CHECK int cow_ctrl_get_info(struct cow_ctrl *ctrl, uint32_t id, struct ub_dev_info *info);
/* The CPUs that submit to a queue. */
COW_MUST_CHECK int cow_ctrl_queue_cpus(struct cow_ctrl *ctrl, uint32_t id, unsigned queue,
				       cpu_set_t *cpus);
/* Of a device that is started; -EOPNOTSUPP without UB_F_UPDATE_SIZE. */
COW_MUST_CHECK int cow_ctrl_set_size(struct cow_ctrl *ctrl, uint32_t id, uint64_t bytes);
/* Every tag of every queue must be fetched, or this waits for ever. */
COW_MUST_CHECK int cow_ctrl_start(struct cow_ctrl *ctrl, uint32_t id, pid_t daemon);
/* Which device has this cookie (ublksrv_flags). 0; -ENODEV: none; or -errno. */
COW_MUST_CHECK int cow_ctrl_find(struct cow_ctrl *ctrl, uint64_t cookie, uint32_t *id);

/*
 * A device with UB_F_USER_RECOVERY whose daemon died: the caller is to open /dev/ublkcN, fetch every
 * tag of every queue, and end it. -EBUSY: the kernel has not noticed yet.
 */
COW_MUST_CHECK int cow_ctrl_start_recovery(struct cow_ctrl *ctrl, uint32_t id);
COW_MUST_CHECK int cow_ctrl_end_recovery(struct cow_ctrl *ctrl, uint32_t id, pid_t daemon);
/* Flushes, waits for requests in flight (the queues must serve), aborts the fetches. */
COW_MUST_CHECK int cow_ctrl_stop(struct cow_ctrl *ctrl, uint32_t id);
/*
 * The same, but -EBUSY while somebody has the block device open; -EOPNOTSUPP without
 * UB_F_SAFE_STOP_DEV.
 */
COW_MUST_CHECK int cow_ctrl_try_stop(struct cow_ctrl *ctrl, uint32_t id);

#endif
