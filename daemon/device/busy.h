/* SPDX-License-Identifier: MIT */
/* Who uses a block device or one of its partitions. */
#ifndef COW_BUSY_H
#define COW_BUSY_H

#include <stdbool.h>
#include <stddef.h>

/*
 * disk: the kernel's name, "ublkb0". True if somebody was found; then text is one phrase:
 * "/dev/ublkb0p1 is mounted on /mnt", "/dev/ublkb0 is open in process 12 (dd)". Open files are
 * found only with root's capabilities.
 */
bool cow_busy_find(const char *disk, char *text, size_t len);

#endif
