/* SPDX-License-Identifier: MIT */
/* Partitions of a device that has just been started. Never in the process that serves the device. */
#ifndef COW_PARTITIONS_H
#define COW_PARTITIONS_H

#include "engine/base/result.h"

enum cow_partitions_wish {
	COW_PARTITIONS_LEAVE,  /* nobody wants them, and the kernel has not looked */
	COW_PARTITIONS_SCAN,   /* read the table, and wait until the partitions are there */
	COW_PARTITIONS_CHECK,  /* the kernel has done so */
	COW_PARTITIONS_REMOVE, /* the kernel has, and nobody wants them */
};

/* The device has 512-byte blocks and a GPT made for 4096: the kernel sees no partition. */
#define COW_PARTITIONS_AT_4096 1

/* disk: "ublkb0". 0, COW_PARTITIONS_AT_4096 (where they are wanted) or -errno. */
COW_MUST_CHECK int cow_partitions_arrange(const char *disk, enum cow_partitions_wish wish);

#endif
