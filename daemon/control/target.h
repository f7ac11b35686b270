/* SPDX-License-Identifier: MIT */
/* From what a user names, a device or an image, to attached devices. */
#ifndef COW_TARGET_H
#define COW_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/control/record.h"
#include "engine/base/result.h"

#define COW_MAX_DEVICES 4096

/* "/dev/ublkb0", "ublkb0" or a symbolic link to it. False: no such name. */
bool cow_target_device(const char *name, uint32_t *id);
/* "ublkb0" when that is a device and a file in the current folder: which one is meant? */
bool cow_target_is_ambiguous(const char *name);
/*
 * All devices of the file that a path leads to now, whatever it was called when it was attached and
 * through whichever mount (identity.h): read-only it may have several. Their number, or -errno.
 */
COW_MUST_CHECK int cow_target_image(const char *image, uint32_t *ids, int max);
/*
 * Of a file that is none's: the device of one with its name and inode number on another file system,
 * which may be that file seen through another mount (CIFS, FUSE, overlay). Nothing but a hint.
 */
bool cow_target_alike(const char *image, uint32_t *id);
/* Those of dead daemons whose image was at that path: it may be gone. */
COW_MUST_CHECK int cow_target_left(const char *image, uint32_t *ids, int max);
/* The device that has a record with this cookie. */
bool cow_target_cookie(uint64_t cookie, uint32_t *id);
/* Is the image no longer where it was when it was attached, and perhaps another there? */
bool cow_target_has_moved(const struct cow_record *record);
/* A device, and which of those that have had its number: 0: whichever has it. */
struct cow_target {
	uint32_t id;
	uint64_t cookie;
};
/* The device that name is, or the one that has the image attached for writing: the live one, where a daemon died. False: none. */
bool cow_target_writer(const char *name, struct cow_target *target);

#endif
