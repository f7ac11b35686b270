/* SPDX-License-Identifier: MIT */
/* See identity.h: paths, loop devices, what NFS mounts show, comparing. */
#include "daemon/control/identity.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/loop.h>
#include <linux/major.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "engine/base/number.h"

/* A loop device in a file in a loop device...: as deep as anybody looks. */
#define MAX_LOOPS 16

bool cow_identity_of(const char *path, struct cow_identity *file)
{
	struct stat st;
	if (stat(path, &st))
		return false;
	file->dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
	file->ino = S_ISBLK(st.st_mode) ? UINT64_MAX : st.st_ino;
	return true;
}

/* ---- loop devices ---- */

/* "/dev/loop0", of a whole loop device, not a partition on one. */
static bool loop_path(uint64_t dev, char *path, size_t len)
{
	char link[64], to[256];
	uint64_t number;
	snprintf(link, sizeof(link), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	ssize_t n = readlink(link, to, sizeof(to) - 1);
	if (n <= 0)
		return false;
	to[n] = '\0';
	const char *name = strrchr(to, '/');
	name = name ? name + 1 : to;
	if (strncmp(name, "loop", 4) || !cow_number_parse(name + 4, UINT32_MAX, &number))
		return false;
	snprintf(path, len, "/dev/loop%" PRIu64, number);
	return true;
}

/* What a loop device shows from its first byte on, in place of it. False: it is none. */
static bool look_through_loop(struct cow_identity *file)
{
	char path[40];
	struct loop_info64 info;
	if (file->ino != UINT64_MAX || major(file->dev) != LOOP_MAJOR ||
	    !loop_path(file->dev, path, sizeof(path)))
		return false;
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool bound = !ioctl(fd, LOOP_GET_STATUS64, &info) && !info.lo_offset;
	close(fd);
	if (!bound)
		return false;
	file->dev = info.lo_rdevice ? info.lo_rdevice : info.lo_device;
	file->ino = info.lo_rdevice ? UINT64_MAX : info.lo_inode;
	return true;
}

static void look_through_loops(struct cow_identity *file)
{
	for (int i = 0; i < MAX_LOOPS && look_through_loop(file); i++)
		;
}

/* ---- NFS ---- */

/* "0:30" */
static bool parse_dev(const char *text, uint64_t *dev)
{
	uint64_t major, minor;
	if (!cow_number_take(&text, UINT32_MAX, &major) || *text++ != ':' ||
	    !cow_number_parse(text, UINT32_MAX, &minor))
		return false;
	*dev = makedev((unsigned)major, (unsigned)minor);
	return true;
}

/*
 * "v4 7f000001  801 0:30  e1f34:1d4 no": how a server calls a file system, by its address, port and fsid, which is what its
 * files' numbers belong to.
 */
static bool parse_volume(char *line, uint64_t *dev, char *volume, size_t len)
{
	char *rest;
	char *version = strtok_r(line, " \n", &rest), *server = strtok_r(NULL, " \n", &rest);
	char *port = strtok_r(NULL, " \n", &rest), *number = strtok_r(NULL, " \n", &rest);
	char *fsid = strtok_r(NULL, " \n", &rest);
	if (!version || !fsid || !parse_dev(number, dev))
		return false;
	snprintf(volume, len, "%s %s %s", server, port, fsid);
	return true;
}

/* One file system of one server, mounted as two. */
static bool is_same_volume(uint64_t a, uint64_t b)
{
	char line[256], volume[160], of_a[160] = "", of_b[160] = "";
	uint64_t dev;
	FILE *f = fopen("/proc/fs/nfsfs/volumes", "re");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		if (!parse_volume(line, &dev, volume, sizeof(volume)))
			continue;
		if (dev == a)
			memcpy(of_a, volume, sizeof(of_a));
		if (dev == b)
			memcpy(of_b, volume, sizeof(of_b));
	}
	fclose(f);
	return of_a[0] && !strcmp(of_a, of_b);
}

/* ---- comparing ---- */

static bool is_one(const struct cow_identity *a, const struct cow_identity *b)
{
	if (a->ino != b->ino)
		return false;
	/* Network file systems have no device of their own: the kernel makes up a number. */
	return a->dev == b->dev ||
	       (!major(a->dev) && !major(b->dev) && is_same_volume(a->dev, b->dev));
}

bool cow_identity_is_same(const struct cow_identity *a, const struct cow_identity *b)
{
	struct cow_identity of_a = *a, of_b = *b;
	if (is_one(a, b))
		return true;
	look_through_loops(&of_a);
	look_through_loops(&of_b);
	return is_one(&of_a, &of_b);
}
