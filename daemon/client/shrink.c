/* SPDX-License-Identifier: MIT */
#include "daemon/client/shrink.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "daemon/holders/busy.h"
#include "daemon/options/cmd.h"
#include "engine/base/number.h"

/* The kernel counts partitions in these, whatever the disk's blocks are. */
#define SECTOR_BYTES 512u

struct look {
	const char *disk;
	uint64_t bytes;
	bool part_in_use;
};

static int read_number(int dir, const char *part, const char *what, uint64_t *number)
{
	char path[NAME_MAX + 16], text[32];
	snprintf(path, sizeof(path), "%s/%s", part, what);
	int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	int ret = n < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	text[n < 0 ? 0 : n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return ret || cow_number_parse(text, UINT64_MAX / SECTOR_BYTES, number) ? ret : -EINVAL;
}

static bool is_claimed(const char *name)
{
	char path[NAME_MAX + 8];
	snprintf(path, sizeof(path), "/dev/%s", name);
	int fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	return fd < 0 && errno == EBUSY;
}

static int look_at_partition(struct look *l, int dir, const char *name)
{
	uint64_t start, length;
	int ret = read_number(dir, name, "start", &start);
	if (!ret)
		ret = read_number(dir, name, "size", &length);
	if (ret == -ENOENT) /* deleted this moment */
		return 0;
	if (ret)
		return cow_cmd_fail("/sys/block/%s/%s: %s", l->disk, name, strerror(-ret));
	l->part_in_use |= is_claimed(name);
	if (start + length <= l->bytes / SECTOR_BYTES)
		return 0;
	return cow_cmd_fail("/dev/%s: partition /dev/%s ends at %" PRIu64
			    " bytes, behind the new end: make it smaller or delete it first",
			    l->disk, name, (start + length) * SECTOR_BYTES);
}

static int look_at_partitions(struct look *l)
{
	char path[NAME_MAX + 16];
	size_t n = strlen(l->disk);
	struct dirent *e;
	int status = 0;
	snprintf(path, sizeof(path), "/sys/block/%s", l->disk);
	DIR *d = opendir(path);
	if (!d)
		return cow_cmd_fail("%s: %s", path, strerror(errno));
	while (!status && (e = readdir(d))) {
		uint64_t number;
		if (!strncmp(e->d_name, l->disk, n) && e->d_name[n] == 'p' &&
		    cow_number_parse(e->d_name + n + 1, INT_MAX, &number))
			status = look_at_partition(l, dirfd(d), e->d_name);
	}
	closedir(d);
	return status;
}

static int tell_users(const char *disk)
{
	char who[512] = "";
	cow_busy_find_everywhere(disk, who, sizeof(who));
	return cow_cmd_fail("/dev/%s: is in use as a whole%s%s: what lies on it must be let go "
			    "before the disk can become smaller",
			    disk, who[0] ? ": " : "", who);
}

/* What is cached of the end that goes would find no device any more. */
static int empty_cache(const char *disk, int fd)
{
	if (!fsync(fd) && !ioctl(fd, BLKFLSBUF, 0))
		return 0;
	return cow_cmd_fail("/dev/%s: cannot write back what is cached: %s", disk, strerror(errno));
}

int cow_shrink_claim(const char *disk, uint64_t bytes, int *claim)
{
	struct look l = { .disk = disk, .bytes = bytes };
	char path[NAME_MAX + 8];
	*claim = -1;
	int status = look_at_partitions(&l);
	if (status)
		return status;
	snprintf(path, sizeof(path), "/dev/%s", disk);
	*claim = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	if (*claim < 0 && errno != EBUSY)
		return cow_cmd_fail("%s: %s", path, strerror(errno));
	if (*claim < 0)
		return l.part_in_use ? 0 : tell_users(disk);
	status = empty_cache(disk, *claim);
	if (status) {
		close(*claim);
		*claim = -1;
	}
	return status;
}
