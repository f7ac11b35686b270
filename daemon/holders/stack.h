/* SPDX-License-Identifier: MIT */
/*
 * The block devices that lie on a disk: its partitions, and whatever the kernel says holds them
 * (device mapper: LVM, LUKS; md), and what lies on those. Loop devices are added by who knows the
 * file systems (fs.h).
 */
#ifndef COW_STACK_H
#define COW_STACK_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "engine/base/result.h"

#define COW_STACK_MAX 4096u

struct cow_stack_dev {
	dev_t dev;
	int below; /* index of the one that it lies on; -1: it is the disk */
	bool partition;
	char name[40];	/* the kernel's: "dm-0" */
	char path[144]; /* what people call it: "/dev/mapper/secret" */
};

struct cow_stack {
	/*
	 * /sys and /dev of the namespace that it was built in: in another they may be anything that
	 * who made it put there
	 */
	int sys_fd, dev_fd;
	struct cow_stack_dev *devs; /* [0] is the disk; what lies on a device comes behind it */
	unsigned nr;
};

/* disk: "ublkb0". 0, -ENODEV (no such disk), -ENOMEM, -E2BIG, or another -errno. */
COW_MUST_CHECK int cow_stack_build(struct cow_stack *stack, const char *disk);
void cow_stack_fini(struct cow_stack *stack);

/* A folder below /sys, as opendir(). */
DIR *cow_stack_open_sys(const struct cow_stack *stack, const char *path);

/* Adds a device, and what lies on it; one that is there is let be. 0 or -errno. */
COW_MUST_CHECK int cow_stack_add(struct cow_stack *stack, const char *name, int below);

/* "259:0", as the kernel writes a device's number. */
bool cow_stack_parse_dev(const char *text, dev_t *dev);

/* The index, or -1. */
COW_MUST_CHECK int cow_stack_find(const struct cow_stack *stack, dev_t dev);
COW_MUST_CHECK int cow_stack_find_name(const struct cow_stack *stack, const char *name);
/* The block device at a path below /dev: its index, or -1. */
COW_MUST_CHECK int cow_stack_find_path(const struct cow_stack *stack, const char *path);

/* " (on /dev/ublkb0p1)", with all that lies between; "" for the disk itself. */
void cow_stack_describe(const struct cow_stack *stack, int idx, char *text, size_t len);

#endif
