/* SPDX-License-Identifier: MIT */
#include "daemon/holders/btrfs.h"

#include <dirent.h>
#include <linux/btrfs.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#define SYS_BTRFS "fs/btrfs"

/* The same of btrfs `uuid` ("01234567-..."). */
static int find(const struct cow_stack *stack, const char *uuid)
{
	char path[128];
	int found = -1;
	snprintf(path, sizeof(path), SYS_BTRFS "/%.40s/devices", uuid);
	DIR *d = cow_stack_open_sys(stack, path);
	if (!d)
		return -1;
	struct dirent *e;
	while (found < 0 && (e = readdir(d)))
		found = cow_stack_find_name(stack, e->d_name);
	closedir(d);
	return found;
}

int cow_btrfs_on_fd(const struct cow_stack *stack, int fd)
{
	struct btrfs_ioctl_fs_info_args info = { 0 };
	char uuid[40];
	if (ioctl(fd, BTRFS_IOC_FS_INFO, &info))
		return -1;
	char *to = uuid;
	for (int i = 0; i < BTRFS_FSID_SIZE; i++)
		to += sprintf(to, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
			      info.fsid[i]);
	return find(stack, uuid);
}

int cow_btrfs_on_any(const struct cow_stack *stack)
{
	DIR *d = cow_stack_open_sys(stack, SYS_BTRFS);
	int found = -1;
	if (!d)
		return -1;
	struct dirent *e;
	while (found < 0 && (e = readdir(d)))
		if (strlen(e->d_name) == 36)
			found = find(stack, e->d_name);
	closedir(d);
	return found;
}
