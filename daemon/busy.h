/* SPDX-License-Identifier: MIT */
/* Who uses a block device or one of its partitions. */
#ifndef COW_BUSY_H
#define COW_BUSY_H

#include <stddef.h>

/*
 * disk: the kernel's name, "ublkb0". Fills text with one phrase ("/dev/ublkb0p1 is mounted on /mnt", "it is open in
 * process 12 (dd)"), or "it is open somewhere" when nothing can be found.
 */
void cow_busy_describe(const char *disk, char *text, size_t len);

#endif
