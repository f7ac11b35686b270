/* SPDX-License-Identifier: MIT */
/*
 * A block device over an image: its whole life, on the thread that opened it.
 *
 * state        who moves it on       what is true
 * NEW          cow_device_open       the image is open, the kernel knows nothing
 * ADDED        cow_device_open       /dev/ublkcN exists, the id is ours
 * SERVING      cow_device_open       parameters are set, every queue's thread runs and has fetched every tag
 * LIVE         cow_device_open       /dev/ublkbN exists and serves
 * STOPPED      cow_device_stop, or   /dev/ublkbN is gone, no request runs, every tag is dead (about to be, if the kernel
 *              somebody else's STOP  was told by somebody else)
 * CLOSED       cow_device_close      nothing is left
 */
#ifndef COW_DEVICE_H
#define COW_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/device/affinity.h"
#include "daemon/device/ctrl.h"
#include "daemon/device/keeper.h"
#include "daemon/device/device_memory.h"
#include "daemon/device/sandbox.h"
#include "daemon/device/transfer.h"
#include "daemon/device/uqueue.h"
#include "engine/base/result.h"
#include "engine/life/image.h"

/*
 * Upper half of every cookie: says of a device in the kernel that it is a cowblk's, even when its
 * daemon died before anything was written down.
 */
#define COW_DEVICE_COOKIE_MARK 0x636f7762u

static inline bool cow_device_is_cookie(uint64_t cookie)
{
	return cookie >> 32 == COW_DEVICE_COOKIE_MARK;
}

enum cow_device_state {
	COW_DEVICE_NEW,
	COW_DEVICE_ADDED,
	COW_DEVICE_SERVING,
	COW_DEVICE_LIVE,
	COW_DEVICE_STOPPED,
	COW_DEVICE_CLOSED,
};

/* A device whose daemon died, and which goes on. */
struct cow_device_left {
	uint32_t id;
	uint64_t cookie;
};

/* Marked and random; 0: there is no randomness (errno). */
uint64_t cow_device_new_cookie(void);

struct cow_device_config {
	const char *image_path; /* absolute; links on the way are followed when it is opened */
	struct cow_open_options open;
	uint32_t id;		/* UB_ANY_ID: the kernel chooses */
	unsigned queues, depth; /* the kernel may give fewer queues */
	bool partition_scan;
	uint32_t block_bytes; /* logical block: 512 or 4096 */
	bool temporary;	      /* write to an overlay that is thrown away */
	bool recovery;	      /* the kernel keeps device and requests when the daemon dies */
	pid_t supervisor;     /* with recovery: who starts another daemon then */
	uint64_t cookie;      /* of a new device; 0: it chooses one */
	const struct cow_device_left *left; /* not a new device: this one */
	struct cow_affinity affinity;
	const struct cow_transfer_ops *transfer;
	struct cow_keeper_hooks hooks;
};

struct cow_device {
	enum cow_device_state state;
	struct cow_ctrl ctrl;	  /* until it is confined */
	struct cow_keeper keeper; /* stops and deletes */
	struct cow_sandbox sandbox;
	bool confined;
	struct cow_loop *loop; /* for open and close, of the same thread */
	struct cow_image *image;
	struct cow_memory memory;
	struct cow_image_geometry geometry;
	bool temporary; /* what is written is thrown away: a failed flush loses nothing */
	uint32_t id;
	char disk[16];	/* "ublkb0" */
	char path[24];	/* "/dev/ublkb0" */
	uint64_t flags; /* UB_F_* that the kernel granted */
	/* marked and random, in the kernel's device info: whose device it is when the daemon is dead */
	uint64_t cookie;
	unsigned nr_queues, depth;
	uint32_t buffer_bytes;
	int lost;    /* why the kernel could not write back all data; 0: it could */
	bool unused; /* at the stop; else some user may hold on to the remains */
	int char_fd;
	int event_fd;  /* readable when a queue has drained */
	int answer_fd; /* readable when a queue has answered cow_uqueue_ask() */
	struct cow_uqueue *queues;
};

/* All the way to LIVE, partitions included. After a failure nothing is left. */
COW_MUST_CHECK int cow_device_open(struct cow_device *dev, const struct cow_device_config *config,
				   struct cow_error *err);

/*
 * Gives up all but what serves the device and ends it (sandbox.h), for every thread there is and
 * will be: nothing can be opened from here on. LIVE, from the thread that opened it. run_dir: of
 * ours.
 */
void cow_device_confine(struct cow_device *dev, const char *run_dir);

/*
 * LIVE -> STOPPED. Flushes first. given_up (may be NULL), set by another thread while nothing is stopped yet:
 * -ECANCELED. -EBUSY, with a text who, when the device or a partition is in use, and the flush's error
 * when something is left that another try may keep. Then the device stays LIVE.
 */
COW_MUST_CHECK int cow_device_stop(struct cow_device *dev, const atomic_bool *given_up,
				   struct cow_error *err);
/* The same whoever uses it, and whatever the flush says. */
COW_MUST_CHECK int cow_device_force_stop(struct cow_device *dev, struct cow_error *err);

/*
 * LIVE. Before a forced stop: what is mounted on the device, anywhere, is written back. Takes
 * half a minute at most. 0, also when nothing is mounted, or -errno with a text.
 */
COW_MUST_CHECK int cow_device_write_back(struct cow_device *dev, struct cow_error *err);

/*
 * LIVE -> STOPPED, where the keeper is gone and nobody else stops the device: requests get no answer
 * any more. The kernel fails them, and stops the device, with cow_device_close().
 */
void cow_device_abandon(struct cow_device *dev);

/* True when the kernel has stopped the device: our doing or not. From any thread, until the close. */
bool cow_device_drained(const struct cow_device *dev);

/*
 * STOPPED or drained -> CLOSED. An error (the first) means that the image could not be closed
 * cleanly, or that what was written to the device before had failed.
 */
COW_MUST_CHECK int cow_device_close(struct cow_device *dev, struct cow_error *err);

#endif
