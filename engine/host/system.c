/* SPDX-License-Identifier: MIT */
/*
 * The real host's name space: opens regular files and block devices, nothing else. Transfers are
 * the loops' business.
 *
 * Direct I/O is used where 512-byte granularity of offset, length and memory is known to work,
 * since that is what guests' sectors need; anything coarser falls back to the page cache.
 */
#include "engine/host/system.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "engine/host/lock.h"

#define SECTOR 512u

#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x2000u
#endif

/* ---- does direct I/O take 512 bytes? ---- */

enum answer { ANSWER_NO, ANSWER_YES, ANSWER_UNKNOWN };

/*
 * What statx says since Linux 6.1. The two fields follow stx_mnt_id in the kernel's layout; headers
 * older than the running kernel show them as spare room.
 */
static enum answer statx_accepts(int fd)
{
	union {
		struct statx stx;
		struct {
			uint8_t before[0x98];
			uint32_t mem_align, offset_align;
		} dio;
	} u;
	memset(&u, 0, sizeof(u));
	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &u.stx) < 0 ||
	    !(u.stx.stx_mask & STATX_DIOALIGN))
		return ANSWER_UNKNOWN;
	if (!u.dio.offset_align)
		return ANSWER_NO;
	return u.dio.mem_align <= SECTOR && u.dio.offset_align <= SECTOR ? ANSWER_YES : ANSWER_NO;
}

/*
 * The logical block size of the device that a file system lies on; 0 if it has none (network,
 * memory).
 */
static unsigned device_block_bytes(dev_t dev)
{
	static const char *const places[] = { "queue", "../queue" }; /* disk, partition */
	for (unsigned i = 0; i < 2; i++) {
		char path[96];
		unsigned bytes = 0;
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/logical_block_size",
			 major(dev), minor(dev), places[i]);
		FILE *f = fopen(path, "re");
		if (!f)
			continue;
		int n = fscanf(f, "%u", &bytes);
		fclose(f);
		if (n == 1)
			return bytes;
	}
	return 0;
}

/*
 * The second sector into memory aligned to no more than a sector. A hole may hide a refusal, hence
 * the look at the device.
 */
static bool trial_accepts(int fd, const struct stat *st)
{
	void *buf;
	if (device_block_bytes(st->st_dev) > SECTOR)
		return false;
	if (posix_memalign(&buf, 4096, 4096))
		return false;
	ssize_t n = pread(fd, (char *)buf + SECTOR, SECTOR, SECTOR);
	free(buf);
	return n >= 0;
}

static bool direct_accepts_sectors(int fd, const struct stat *st)
{
	int block_bytes;
	if (S_ISBLK(st->st_mode) && !ioctl(fd, BLKSSZGET, &block_bytes) &&
	    block_bytes > (int)SECTOR)
		return false;
	enum answer answer = statx_accepts(fd);
	return answer == ANSWER_UNKNOWN ? trial_accepts(fd, st) : answer == ANSWER_YES;
}

/* ---- opening ---- */

static int check_type(const struct stat *st, const char *path, struct cow_error *err)
{
	const char *what = "an object of unknown type";
	if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
		return 0;
	if (S_ISDIR(st->st_mode))
		what = "a directory";
	else if (S_ISCHR(st->st_mode))
		what = "a character device";
	else if (S_ISFIFO(st->st_mode))
		what = "a pipe";
	else if (S_ISSOCK(st->st_mode))
		what = "a socket";
	return cow_error_set(err, S_ISDIR(st->st_mode) ? -EISDIR : -EINVAL,
			     "%s: is %s: give a regular file or a block device", path, what);
}

static int cannot_open(const char *path, int ret, struct cow_error *err)
{
	return cow_error_set(err, ret, "%s: cannot open: %s%s", path, strerror(-ret),
			     ret == -EROFS ? ": use it read-only" : "");
}

/*
 * O_NONBLOCK keeps open() from hanging on a pipe put there meanwhile; it must not stay, io_uring
 * heeds it.
 */
static int open_fd(const char *path, int flags, int *fd)
{
	*fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644);
	if (*fd < 0)
		return -errno;
	int now = fcntl(*fd, F_GETFL);
	if (now < 0 || fcntl(*fd, F_SETFL, now & ~O_NONBLOCK) < 0) {
		int ret = -errno;
		close(*fd);
		return ret;
	}
	return 0;
}

/* Opens path and reports whether this call made the file. */
static int open_any(const char *path, unsigned flags, int *fd, bool *created)
{
	int mode = (flags & (COW_OPEN_WRITE | COW_OPEN_CREATE)) ? O_RDWR : O_RDONLY;

	*created = false;
	if (!(flags & COW_OPEN_CREATE))
		return open_fd(path, mode, fd);
	int ret = open_fd(path, mode | O_CREAT | O_EXCL, fd);
	*created = !ret;
	if (ret == -EEXIST && (flags & COW_OPEN_TRUNCATE))
		ret = open_fd(path, mode, fd);
	return ret;
}

static int set_direct(int fd, bool on)
{
	int now = fcntl(fd, F_GETFL);
	if (now < 0 || fcntl(fd, F_SETFL, on ? now | O_DIRECT : now & ~O_DIRECT) < 0)
		return -errno;
	return 0;
}

/* Switches to direct I/O if that can serve sectors; *direct says what it came to. */
static int choose_direct(int fd, const struct stat *st, const char *path, bool *direct)
{
	*direct = set_direct(fd, true) == 0;
	if (!*direct || direct_accepts_sectors(fd, st))
		return 0;
	cow_log(COW_LOG_INFO, "%s: direct I/O is coarser than 512 bytes here: using the page cache",
		path);
	*direct = false;
	return set_direct(fd, false);
}

static int file_size(int fd, const struct stat *st, uint64_t *bytes)
{
	*bytes = (uint64_t)st->st_size;
	if (S_ISBLK(st->st_mode) && ioctl(fd, BLKGETSIZE64, bytes) < 0)
		return -errno;
	return 0;
}

/* Of a block device the device: it may have many nodes. */
static void identity(const struct stat *st, uint64_t *dev, uint64_t *ino)
{
	bool block = S_ISBLK(st->st_mode);
	*dev = block ? st->st_rdev : st->st_dev;
	*ino = block ? UINT64_MAX : st->st_ino;
}

static int make_file(struct cow_host *host, const char *path, unsigned flags, int fd, bool direct,
		     const struct stat *st, struct cow_file **out)
{
	struct cow_host_file *file = calloc(1, sizeof(*file));
	if (!file)
		return -ENOMEM;
	uint64_t bytes;
	int ret = file_size(fd, st, &bytes);
	file->base.size_bytes = bytes;
	file->base.path = strdup(path);
	if (ret || !file->base.path) {
		free(file->base.path);
		free(file);
		return ret ? ret : -ENOMEM;
	}
	file->fd = fd;
	file->base.host = host;
	identity(st, &file->base.dev, &file->base.ino);
	file->base.writable = flags & (COW_OPEN_WRITE | COW_OPEN_CREATE);
	file->base.direct = direct;
	file->base.unlocked = flags & COW_OPEN_NO_LOCK;
	file->base.block_device = S_ISBLK(st->st_mode);
	file->base.can_punch = file->base.writable;
	*out = &file->base;
	return 0;
}

/* Everything between a fresh descriptor and a finished file; the caller closes fd on failure. */
static int set_up(struct cow_host *host, const char *path, unsigned flags, int fd,
		  struct cow_file **out, struct cow_error *err)
{
	bool direct = false;
	struct stat st;
	if (fstat(fd, &st) < 0)
		return cannot_open(path, -errno, err);
	int ret = check_type(&st, path, err);
	if (ret)
		return ret;
	if (!(flags & COW_OPEN_NO_LOCK)) {
		ret = cow_lock_image(fd, flags & (COW_OPEN_WRITE | COW_OPEN_CREATE), path, err);
		if (ret)
			return ret;
	}
	if ((flags & COW_OPEN_TRUNCATE) && S_ISREG(st.st_mode) &&
	    (ftruncate(fd, 0) < 0 || fstat(fd, &st) < 0))
		return cannot_open(path, -errno, err);
	if (!(flags & COW_OPEN_BUFFERED))
		ret = choose_direct(fd, &st, path, &direct);
	if (!ret)
		ret = make_file(host, path, flags, fd, direct, &st, out);
	return ret ? cannot_open(path, ret, err) : 0;
}

static int system_open(struct cow_host *host, const char *path, unsigned flags,
		       struct cow_file **out, struct cow_error *err)
{
	struct stat st;
	int fd, ret;
	bool created;

	/* Before open(): opening some devices does things. */
	if (stat(path, &st) == 0) {
		ret = check_type(&st, path, err);
		if (ret)
			return ret;
	}
	ret = open_any(path, flags, &fd, &created);
	if (ret)
		return cannot_open(path, ret, err);
	ret = set_up(host, path, flags, fd, out, err);
	if (ret) {
		close(fd);
		if (created)
			unlink(path);
	}
	return ret;
}

static void system_close(struct cow_file *base)
{
	struct cow_host_file *file = (struct cow_host_file *)base;
	if (!file)
		return;
	/*
	 * Now, not when the last reference goes: a ring that is being torn down may hold one for a
	 * while.
	 */
	cow_lock_release(file->fd);
	close(file->fd);
	free(base->path);
	free(file);
}

static bool system_length(struct cow_file *file, uint64_t *bytes)
{
	struct statx stx;
	if (file->block_device ||
	    statx(cow_host_fd(file), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &stx) < 0)
		return false;
	*bytes = stx.stx_size;
	return true;
}

static int system_identify(struct cow_host *host, const char *path, uint64_t *dev, uint64_t *ino)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return -errno;
	identity(&st, dev, ino);
	return 0;
}

static int system_realpath(struct cow_host *host, const char *path, char **out)
{
	*out = realpath(path, NULL);
	return *out ? 0 : -errno;
}

static void system_drop_cache(struct cow_file *file)
{
	if (file->direct && !file->block_device)
		posix_fadvise(cow_host_fd(file), 0, 0, POSIX_FADV_DONTNEED);
}

struct cow_host *cow_host_system(void)
{
	static const struct cow_host_ops ops = {
		.open = system_open,
		.close = system_close,
		.realpath = system_realpath,
		.drop_cache = system_drop_cache,
		.length = system_length,
		.identify = system_identify,
	};
	static struct cow_host host = { .ops = &ops };
	return &host;
}
