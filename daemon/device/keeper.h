/* SPDX-License-Identifier: MIT */
/*
 * The keeper: what is left of root once the device is live. A process of its own, forked before the
 * daemon opens anything, that carries out a handful of fixed requests for one device, named once:
 * those that the kernel wants CAP_SYS_ADMIN for (STOP_DEV, DEL_DEV: ublk asks for it at every
 * control command of a device that was added with it), those that need the host's paths, and all
 * that wait for I/O of the device: killed while it waits in the kernel for what only itself could
 * answer, the daemon would never let go of /dev/ublkcN, and the kernel fails requests when that is
 * closed. It knows no path and no id from its requests, so a daemon that an image has taken over can
 * only stop its own device.
 *
 * It ends with the daemon, whatever ends that and whatever it is at; that of a device that outlives its daemon
 * when there is another one, or, should that never come because its supervisor is dead as well, when it has
 * stopped the device: requests fail then, instead of waiting for ever. Signals are for the daemon. Calls are from one thread
 * at a time and return -EPIPE when the keeper has died, or says nothing for 10 s (stopped): it is
 * not asked again then. The device can still be stopped from outside (`cowblk detach --force`).
 */
#ifndef COW_KEEPER_H
#define COW_KEEPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/device/partitions.h"
#include "engine/base/error.h"
#include "engine/base/result.h"

/* Both run in the keeper. */
struct cow_keeper_hooks {
	void (*started)(void *ctx); /* forget what the daemon has in memory: passphrases */
	/* the device goes: remove what tells of it, and of no other with its id */
	void (*deleted)(uint32_t id, uint64_t cookie);
	void *ctx;
};

struct cow_keeper {
	int fd; /* hangs up when the keeper is gone, or given up */
};

/* Before any thread exists and anything is open that the keeper must not hold on to. */
COW_MUST_CHECK int cow_keeper_start(struct cow_keeper *keeper, const struct cow_keeper_hooks *hooks,
				    struct cow_error *err);
void cow_keeper_end(struct cow_keeper *keeper);

/*
 * Once. cookie: ublksrv_flags of the device, else -ESTALE with each request. supervisor: who replaces the
 * daemon; 0: nobody.
 */
COW_MUST_CHECK int cow_keeper_serve(struct cow_keeper *keeper, uint32_t id, uint64_t cookie,
				    pid_t supervisor);

/* As cow_ctrl_start(), for the caller. */
COW_MUST_CHECK int cow_keeper_start_device(struct cow_keeper *keeper);

/* LIVE, before anybody has heard of it. As cow_partitions_arrange(). */
COW_MUST_CHECK int cow_keeper_arrange_partitions(struct cow_keeper *keeper,
						 enum cow_partitions_wish wish);

/* As cow_ctrl_stop(), _try_stop() and _delete(); the last runs hooks->deleted before. */
COW_MUST_CHECK int cow_keeper_stop(struct cow_keeper *keeper);
COW_MUST_CHECK int cow_keeper_try_stop(struct cow_keeper *keeper);
COW_MUST_CHECK int cow_keeper_delete(struct cow_keeper *keeper, unsigned wait_ms);

/* The keeper opens the block device with O_EXCL: -EBUSY while it is claimed. Until the release. */
COW_MUST_CHECK int cow_keeper_claim(struct cow_keeper *keeper);
/* With the claim. */
COW_MUST_CHECK int cow_keeper_flush(struct cow_keeper *keeper);
COW_MUST_CHECK int cow_keeper_release(struct cow_keeper *keeper);

/* All file systems on the device, for half a minute at most. 0 or -errno with a text. */
COW_MUST_CHECK int cow_keeper_write_back(struct cow_keeper *keeper, struct cow_error *err);

/* As cow_busy_find_everywhere(). */
bool cow_keeper_find_user(struct cow_keeper *keeper, char *text, size_t len);

#endif
