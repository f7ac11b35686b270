/* SPDX-License-Identifier: MIT */
/* From what a user names, a device or an image, to attached devices. */
#ifndef COW_TARGET_H
#define COW_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#define COW_MAX_DEVICES 4096

/* "/dev/ublkb0", "ublkb0" or a symbolic link to it. False: no such name. */
bool cow_target_device(const char *name, uint32_t *id);
/* All devices of an image: read-only it may have several. Their number, or -errno. */
int cow_target_image(const char *image, uint32_t *ids, int max);
/* The device that name is, or the one that has the image attached for writing: the live one, where a daemon died. False: none. */
bool cow_target_writer(const char *name, uint32_t *id);

#endif
