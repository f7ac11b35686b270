/* SPDX-License-Identifier: MIT */
/* Who uses a block device, or anything that lies on it. */
#ifndef COW_BUSY_H
#define COW_BUSY_H

#include <stddef.h>

/* UNKNOWN: the look took too long. */
enum cow_busy { COW_BUSY_NOBODY, COW_BUSY_SOMEBODY, COW_BUSY_UNKNOWN };

/*
 * disk: the kernel's name, "ublkb0". If somebody was found text is a phrase for each of
 * the first few: "/dev/mapper/secret (on /dev/ublkb0p1) is mounted on /mnt", "/dev/ublkb0 is open
 * in process 12 (dd)". Open files are found only with root's
 * capabilities. In all mount namespaces, from a process of its own (see child.h), or else in the
 * caller's. Of UNKNOWN text says so too.
 */
enum cow_busy cow_busy_find_everywhere(const char *disk, char *text, size_t len);

#endif
