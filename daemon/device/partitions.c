/* SPDX-License-Identifier: MIT */
#include "daemon/device/partitions.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/blkpg.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/number.h"

#define RETRY_MS 20
#define MAX_RETRIES 100

/* -EBUSY: somebody (udev) looks at the device this very moment. */
static int reread(int fd)
{
	for (int i = 0; i < MAX_RETRIES; i++) {
		if (!ioctl(fd, BLKRRPART))
			return 0;
		if (errno != EBUSY)
			return -errno;
		nanosleep(&(struct timespec){ .tv_nsec = RETRY_MS * 1000000 }, NULL);
	}
	return -EBUSY;
}

static int scan(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int ret = reread(fd);
	close(fd);
	return ret;
}

/* A GPT's header is the second block. */
static bool has_gpt(int fd, off_t block_bytes)
{
	static const char magic[] = "EFI PART";
	char buf[sizeof(magic) - 1];
	return pread(fd, buf, sizeof(buf), block_bytes) == (ssize_t)sizeof(buf) &&
	       !memcmp(buf, magic, sizeof(buf));
}

static bool lie_at_4096(const char *path)
{
	int block_bytes, fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool there = !ioctl(fd, BLKSSZGET, &block_bytes) && block_bytes == 512 &&
		     !has_gpt(fd, 512) && has_gpt(fd, 4096);
	close(fd);
	return there;
}

static int remove_one(int fd, int number)
{
	struct blkpg_partition part = { .pno = number };
	struct blkpg_ioctl_arg arg = { .op = BLKPG_DEL_PARTITION,
				       .datalen = sizeof(part),
				       .data = &part };
	return ioctl(fd, BLKPG, &arg) ? -errno : 0;
}

static int remove_all(const char *disk)
{
	char path[64];
	snprintf(path, sizeof(path), "/dev/%s", disk);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	snprintf(path, sizeof(path), "/sys/block/%s", disk);
	DIR *d = opendir(path);
	int ret = d ? 0 : -errno;
	size_t n = strlen(disk);
	struct dirent *e;
	while (!ret && (e = readdir(d))) {
		uint64_t number;
		if (!strncmp(e->d_name, disk, n) && e->d_name[n] == 'p' &&
		    cow_number_parse(e->d_name + n + 1, INT_MAX, &number))
			ret = remove_one(fd, (int)number);
	}
	if (d)
		closedir(d);
	close(fd);
	return ret;
}

int cow_partitions_arrange(const char *disk, enum cow_partitions_wish wish)
{
	char path[64];
	int ret = 0;
	snprintf(path, sizeof(path), "/dev/%s", disk);
	switch (wish) {
	case COW_PARTITIONS_LEAVE:
		return 0;
	case COW_PARTITIONS_REMOVE:
		return remove_all(disk);
	case COW_PARTITIONS_SCAN:
		ret = scan(path);
		break;
	case COW_PARTITIONS_CHECK:
		break;
	}
	return ret ? ret : lie_at_4096(path) ? COW_PARTITIONS_AT_4096 : 0;
}
