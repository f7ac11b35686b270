/* SPDX-License-Identifier: MIT */
#include "daemon/device/stop.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define POLL_MS 10
/* How long somebody who just looks (udev) may keep the device open before it counts as in use. */
#define OPENER_WAIT_MS 2000

static void take_a_nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = POLL_MS * 1000000l }, NULL);
}

static int busy_error(struct cow_device *dev, struct cow_error *err)
{
	char who[512] = "it is open somewhere";
	cow_keeper_find_user(&dev->keeper, who, sizeof(who));
	return cow_error_set(err, -EBUSY, "%s: in use: %s: unmount or close it first", dev->path,
			     who);
}

int cow_stop_cannot(const struct cow_device *dev, int ret, struct cow_error *err)
{
	const char *why =
		ret == -EPIPE
			? "its keeper has died or is stopped: `cowblk detach --force` does without"
			: strerror(-ret);
	return cow_error_set(err, ret, "%s: cannot stop: %s", dev->path, why);
}

static bool is_given_up(const atomic_bool *given_up)
{
	return given_up && atomic_load(given_up);
}

/*
 * Kernels with TRY_STOP_DEV refuse by themselves while anybody has it open, even without a claim.
 * On older ones `cowblk detach` looks for such.
 */
static int stop_if_closed(struct cow_device *dev, const atomic_bool *given_up)
{
	int ret;
	for (unsigned ms = 0;; ms += POLL_MS) {
		if (is_given_up(given_up))
			return -ECANCELED;
		ret = cow_keeper_try_stop(&dev->keeper);
		if (ret != -EBUSY || ms >= OPENER_WAIT_MS)
			return ret;
		take_a_nap();
	}
}

/* O_EXCL on the whole disk is refused when it or a partition is claimed: mounted, held, swap. */
static int claim(struct cow_device *dev)
{
	for (unsigned ms = 0;; ms += POLL_MS) {
		int ret = cow_keeper_claim(&dev->keeper);
		if (ret != -EBUSY || ms >= OPENER_WAIT_MS / 4)
			return ret;
		take_a_nap();
	}
}

static bool has_lost_writes(const struct cow_device *dev)
{
	bool lost = false;
	for (unsigned i = 0; i < dev->nr_queues && !lost; i++)
		lost = atomic_load(&dev->queues[i].lost_writes);
	return lost;
}

/*
 * What the kernel cannot write back it gives up, and says so once, to who asks first; only then does
 * a flush reach us, which tells whether anything is left that a second try could keep. The first
 * error may be that flush's as well: then nothing is lost so far.
 */
static int flush(struct cow_device *dev, struct cow_error *err)
{
	int ret = cow_keeper_flush(&dev->keeper);
	if (ret && ret != -EPIPE) {
		if (has_lost_writes(dev))
			dev->lost = ret;
		ret = cow_keeper_flush(&dev->keeper);
	}
	if (ret == -EPIPE)
		return cow_stop_cannot(dev, ret, err);
	if (!ret || dev->temporary)
		return 0;
	return cow_error_set(err, ret,
			     "%s: cannot flush: %s: mend that and detach again to keep what is not "
			     "stored yet, or lose it with --force",
			     dev->path, strerror(-ret));
}

int cow_stop_unused(struct cow_device *dev, const atomic_bool *given_up, struct cow_error *err)
{
	int ret = claim(dev);
	if (ret == -EBUSY)
		return busy_error(dev, err);
	if (ret)
		return cow_stop_cannot(dev, ret, err);
	ret = flush(dev, err);
	if (ret) {
		COW_IGNORE(cow_keeper_release(&dev->keeper));
		return ret;
	}
	if (dev->ctrl.features & UB_F_SAFE_STOP_DEV) {
		COW_IGNORE(cow_keeper_release(&dev->keeper));
		ret = stop_if_closed(dev, given_up);
	} else if (is_given_up(given_up)) {
		COW_IGNORE(cow_keeper_release(&dev->keeper));
		ret = -ECANCELED;
	} else {
		/* our claim keeps others from mounting it meanwhile */
		ret = cow_keeper_stop(&dev->keeper);
		COW_IGNORE(cow_keeper_release(&dev->keeper));
	}
	if (ret == -EBUSY)
		return busy_error(dev, err);
	return ret ? cow_stop_cannot(dev, ret, err) : 0;
}
