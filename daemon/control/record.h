/* SPDX-License-Identifier: MIT */
/*
 * What is known of an attached device outside its daemon: COW_RUN_DIR/ublkbN.json, beside it the
 * daemon's control socket ublkbN.sock and its log ublkbN.log. Written when the device is ready,
 * removed by a daemon that ends cleanly.
 */
#ifndef COW_RECORD_H
#define COW_RECORD_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/base/result.h"

#define COW_RUN_DIR "/run/cowblk"
/* UINT32_MAX stands for "any" in the kernel's interface. */
#define COW_MAX_DEVICE_ID (UINT32_MAX - 1)

struct cow_record {
	uint32_t id;
	char *image; /* where it was when it was attached: absolute, owned */
	/* which file it is, wherever that is by now: see cow_image_identity(); 0: not known */
	uint64_t file_dev, file_ino;
	uint64_t size_bytes;
	bool read_only;
	bool temporary; /* what is written is thrown away: the image is only read */
	char *snapshot; /* which one it serves, as it was asked for; NULL: the live disk; owned */
	unsigned queues, depth;
	pid_t pid;
	uint64_t cookie; /* of the kernel's device, cow_device.cookie: ids are used again */
};

/* Is the image itself written, through this device? */
bool cow_record_writes_image(const struct cow_record *record);

/* "/run/cowblk/ublkbN.SUFFIX" */
void cow_record_path(uint32_t id, const char *suffix, char *path, size_t len);

/* Makes COW_RUN_DIR. 0 or -errno. */
COW_MUST_CHECK int cow_record_make_dir(void);

/*
 * Without waiting: ONE is held by each attach from before its device is in the kernel until its record is written; ALL
 * by those who look for devices without a record. An fd to be closed, or -errno; -EWOULDBLOCK: others hold it.
 */
enum cow_record_lock { COW_RECORD_LOCK_ONE, COW_RECORD_LOCK_ALL };
COW_MUST_CHECK int cow_record_lock(enum cow_record_lock lock);
/*
 * Without waiting: held by who resizes this device, until the kernel has its new size. Of the same file, and apart from
 * the locks above. An fd to be closed, or -errno; -EWOULDBLOCK: another resize is under way.
 */
COW_MUST_CHECK int cow_record_lock_size(uint32_t id);

/*
 * Held as long as the supervisor of this device lives, which replaces a daemon that dies. An fd, or -errno.
 */
COW_MUST_CHECK int cow_record_supervise(uint32_t id);
void cow_record_supervise_end(uint32_t id, int fd);
/*
 * For who waits for its end as well: an fd before it, closed by the wait; or -1, where there is none.
 */
COW_MUST_CHECK int cow_record_watch_supervisor(uint32_t id);
void cow_record_wait_supervisor(int fd, unsigned limit_ms);
/* Somebody holds it. False also for who may not look. */
bool cow_record_is_supervised(uint32_t id);

COW_MUST_CHECK int cow_record_write(const struct cow_record *record);
/* 0 or -errno; -EINVAL for a file that is no record. */
COW_MUST_CHECK int cow_record_read(uint32_t id, struct cow_record *record);
void cow_record_fini(struct cow_record *record);
/* The record of this device and what lies beside it: by now the id may be another's. */
void cow_record_remove(uint32_t id, uint64_t cookie);
/* Whatever lies there, for who has the id or keeps others from getting it. */
void cow_record_clear(uint32_t id);

/* Ids with a record, ascending, at most max; the number of them or -errno. No directory: none. */
COW_MUST_CHECK int cow_record_list(uint32_t *ids, unsigned max);

/* The record as JSON, for files, replies and `list --json`. */
struct json_object *cow_record_to_json(const struct cow_record *record);

#endif
