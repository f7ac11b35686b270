/* SPDX-License-Identifier: MIT */
/* Partitions of a device that has just been started. */
#ifndef COW_PARTITIONS_H
#define COW_PARTITIONS_H

#include <stdbool.h>

/*
 * Reads the partition table and waits until the partitions are there. path: "/dev/ublkb0". 0 or
 * -errno.
 */
int cow_partitions_scan(const char *path);
/*
 * Has the device 512-byte blocks, and a GPT that was made for 4096? The kernel sees no partition
 * then.
 */
bool cow_partitions_lie_at_4096(const char *path);
/* Takes away what a kernel found that cannot be told not to look. disk: "ublkb0". 0 or -errno. */
int cow_partitions_remove(const char *disk);

#endif
