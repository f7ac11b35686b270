/* SPDX-License-Identifier: MIT */
#include "daemon/cli/fsfreeze.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Is the block device at path the disk ublkb<id>, or one of its partitions? */
static bool is_on(const char *path, uint32_t id)
{
	struct stat st;
	char link[64], target[512], disk[24];
	if (path[0] != '/' || stat(path, &st) || !S_ISBLK(st.st_mode))
		return false;
	snprintf(link, sizeof(link), "/sys/dev/block/%u:%u", major(st.st_rdev), minor(st.st_rdev));
	ssize_t n = readlink(link, target, sizeof(target) - 2);
	if (n < 0)
		return false;
	strcpy(target + n, "/");
	snprintf(disk, sizeof(disk), "/ublkb%u/", id);
	return strstr(target, disk) != NULL;
}

/* A file system that is mounted at several places is frozen once. */
static int freeze_one(struct cow_fsfreeze *frozen, const char *dir, struct cow_error *err)
{
	if (frozen->nr == COW_FSFREEZE_MAX)
		return cow_error_set(err, -EMFILE, "%s: more than %d mounted file systems", dir,
				     COW_FSFREEZE_MAX);
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return cow_error_set(err, -errno, "%s: cannot freeze the file system: %s", dir,
				     strerror(errno));
	if (!ioctl(fd, FIFREEZE, 0)) {
		frozen->fds[frozen->nr++] = fd;
		return 0;
	}
	int error = errno;
	close(fd);
	if (error == EBUSY && frozen->nr)
		return 0;
	return cow_error_set(err, -error, "%s: cannot freeze the file system: %s", dir,
			     error == EOPNOTSUPP ? "it has no support for that: leave out --freeze"
						 : strerror(error));
}

int cow_fsfreeze(uint32_t id, struct cow_fsfreeze *frozen, struct cow_error *err)
{
	FILE *mounts = setmntent("/proc/self/mounts", "r");
	if (!mounts)
		return cow_error_set(err, -errno, "/proc/self/mounts: %s", strerror(errno));
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &frozen->signals);
	int ret = 0;
	for (struct mntent *m; !ret && (m = getmntent(mounts));)
		if (is_on(m->mnt_fsname, id))
			ret = freeze_one(frozen, m->mnt_dir, err);
	endmntent(mounts);
	if (ret || !frozen->nr) {
		cow_fsthaw(frozen);
		sigprocmask(SIG_SETMASK, &frozen->signals, NULL);
	}
	return ret;
}

void cow_fsthaw(struct cow_fsfreeze *frozen)
{
	if (!frozen->nr)
		return;
	while (frozen->nr) {
		int fd = frozen->fds[--frozen->nr];
		ioctl(fd, FITHAW, 0);
		close(fd);
	}
	sigprocmask(SIG_SETMASK, &frozen->signals, NULL);
}
