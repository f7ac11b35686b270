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
#include "engine/host/path.h"
#include "engine/host/root.h"

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

static int cannot_open(const char *path, int ret, struct cow_error *err)
{
	return cow_error_set(err, ret, "%s: cannot open: %s%s", path, strerror(-ret),
			     ret == -EROFS ? ": it can only be read (attach --read-only)" : "");
}

static int change_flags(int fd, int set, int clear)
{
	int now = fcntl(fd, F_GETFL);
	return now < 0 || fcntl(fd, F_SETFL, (now | set) & ~clear) < 0 ? -errno : 0;
}

/* O_NONBLOCK is for the open; it must not stay, io_uring heeds it. */
static int clear_nonblock(int fd)
{
	return change_flags(fd, 0, O_NONBLOCK);
}

/* Switches to direct I/O if that can serve sectors; *direct says what it came to. */
static int choose_direct(int fd, const struct stat *st, const char *path, bool *direct)
{
	*direct = change_flags(fd, O_DIRECT, 0) == 0;
	if (!*direct || direct_accepts_sectors(fd, st))
		return 0;
	cow_log(COW_LOG_INFO, "%s: direct I/O is coarser than 512 bytes here: using the page cache",
		path);
	*direct = false;
	return change_flags(fd, 0, O_DIRECT);
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

static void describe(struct cow_file *file, const struct stat *st)
{
	identity(st, &file->dev, &file->ino);
	file->owner = st->st_uid;
	file->callers = st->st_uid == geteuid();
	file->hidden_link = st->st_nlink > 1 && !(st->st_mode & S_IROTH);
	file->block_device = S_ISBLK(st->st_mode);
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
	file->dir_fd = -1;
	file->base.host = host;
	describe(&file->base, st);
	file->base.writable = flags & (COW_OPEN_WRITE | COW_OPEN_CREATE);
	file->base.direct = direct;
	file->base.unlocked = flags & COW_OPEN_NO_LOCK;
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
	int ret = 0;
	if (!(flags & COW_OPEN_NO_LOCK))
		ret = cow_lock_image(fd,
				     flags & (COW_OPEN_WRITE | COW_OPEN_CREATE) ? COW_LOCK_WRITER
										: COW_LOCK_READER,
				     path, err);
	if (ret)
		return ret;
	if (fstat(fd, &st) < 0)
		return cannot_open(path, -errno, err);
	if ((flags & COW_OPEN_TRUNCATE) && S_ISREG(st.st_mode) &&
	    (ftruncate(fd, 0) < 0 || fstat(fd, &st) < 0))
		return cannot_open(path, -errno, err);
	if (!(flags & COW_OPEN_BUFFERED))
		ret = choose_direct(fd, &st, path, &direct);
	if (!ret)
		ret = make_file(host, path, flags, fd, direct, &st, out);
	return ret ? cannot_open(path, ret, err) : 0;
}

/* ---- below a folder ---- */

/* A folder, a name in it that no link is on the way of, and how both were come by. */
struct place {
	int dir;
	const char *name;  /* relative to dir */
	const char *shown; /* for texts, and as the file's path */
	const struct cow_path *path;
};

/* What is there already. The owner's links are looked at before anything is locked or written. */
static int open_there(struct cow_host *host, const struct place *at, unsigned flags,
		      struct cow_file **out, struct cow_error *err)
{
	int mode = flags & (COW_OPEN_WRITE | COW_OPEN_CREATE) ? O_RDWR : O_RDONLY;
	struct stat st;
	int fd = cow_path_open_typed(at->dir, at->name, mode | O_NOCTTY | O_NONBLOCK,
				     COW_PATH_FILE | COW_PATH_BLOCK, at->shown, &st, err);
	if (fd < 0)
		return cannot_open(at->shown, fd, err);
	int ret = at->path ? cow_path_check(at->path, &st, at->shown, err) : 0;
	if (!ret)
		ret = clear_nonblock(fd);
	if (!ret)
		ret = set_up(host, at->shown, flags, fd, out, err);
	if (ret)
		close(fd);
	return ret ? cannot_open(at->shown, ret, err) : 0;
}

static void take_away(int dir, const char *name, int fd)
{
	struct stat made, named;
	if (!fstat(fd, &made) && !fstatat(dir, name, &named, AT_SYMLINK_NOFOLLOW) &&
	    made.st_dev == named.st_dev && made.st_ino == named.st_ino)
		unlinkat(dir, name, 0);
}

/* A file that was not there before; its folder must belong to whose links lead to it. */
static int make_there(struct cow_host *host, const struct place *at, unsigned flags,
		      struct cow_file **out, struct cow_error *err)
{
	const char *base = strrchr(at->path->full, '/') + 1;
	size_t above = strlen(at->name) - strlen(base);
	char folder[PATH_MAX];
	struct stat st;
	memcpy(folder, at->name, above);
	folder[above ? above - 1 : 0] = '\0';
	int dir = cow_path_open(at->dir, folder, O_PATH | O_DIRECTORY, 0);
	if (dir < 0)
		return cannot_open(at->shown, dir, err);
	int ret = fstat(dir, &st) ? -errno : cow_path_check(at->path, &st, at->shown, err);
	int fd = ret ? ret : cow_path_open(dir, base, O_RDWR | O_CREAT | O_EXCL, 0600);
	ret = fd < 0 ? fd : set_up(host, at->shown, flags, fd, out, err);
	if (!ret) {
		struct cow_host_file *file = (struct cow_host_file *)*out;
		file->dir_fd = dir;
		file->name = file->base.path + strlen(at->shown) - strlen(base);
		return 0;
	}
	if (fd >= 0) {
		take_away(dir, base, fd);
		close(fd);
	}
	close(dir);
	return cannot_open(at->shown, ret, err);
}

static int system_open(struct cow_host *host, const char *path, unsigned flags,
		       struct cow_file **out, struct cow_error *err)
{
	struct cow_path real;
	int ret = cow_path_resolve(path, &real, err);
	if (ret)
		return ret;
	struct place at = { cow_path_open_slash(), real.full + 1, path, &real };
	if (at.dir < 0)
		return cannot_open(path, at.dir, err);
	if (!(flags & COW_OPEN_CREATE))
		ret = open_there(host, &at, flags, out, err);
	else if (real.missing)
		ret = make_there(host, &at, flags, out, err);
	else if (flags & COW_OPEN_TRUNCATE)
		ret = open_there(host, &at, flags, out, err);
	else
		ret = cannot_open(path, -EEXIST, err);
	close(at.dir);
	return ret;
}

struct system_root {
	struct cow_root base; /* first */
	int fd;
	struct cow_path via; /* of the file that it was opened for */
};

static int set_up_root(struct system_root *root, struct cow_host *host, const char *dir)
{
	struct stat st, top;
	int slash = cow_path_open_slash();
	if (slash < 0)
		return slash;
	root->base.host = host;
	root->base.path = strdup(dir);
	root->fd = cow_path_open(slash, dir + 1, O_PATH | O_DIRECTORY, 0);
	int ret = !root->base.path ? -ENOMEM : root->fd < 0 ? root->fd : 0;
	if (!ret && (fstat(root->fd, &st) || fstat(slash, &top)))
		ret = -errno;
	root->base.slash = !ret && st.st_dev == top.st_dev && st.st_ino == top.st_ino;
	close(slash);
	return ret;
}

static void system_root_close(struct cow_root *base)
{
	struct system_root *root = (struct system_root *)base;
	if (root->fd >= 0)
		close(root->fd);
	free(base->path);
	free(root);
}

static int system_root_open(struct cow_host *host, const char *dir, struct cow_root **out,
			    struct cow_error *err)
{
	struct system_root *root = calloc(1, sizeof(*root));
	if (!root)
		return cow_error_no_memory(err);
	root->fd = -1;
	int ret = cow_path_resolve(dir, &root->via, err);
	if (!ret)
		ret = root->via.missing ? -ENOENT : set_up_root(root, host, root->via.full);
	root->via.link_owner = COW_PATH_ANY_OWNER;
	root->via.is_descriptor = false;
	if (ret) {
		system_root_close(&root->base);
		return cannot_open(dir, ret, err);
	}
	*out = &root->base;
	return 0;
}

static int system_root_of(struct cow_host *host, const char *path, struct cow_root **out,
			  char **name, struct cow_error *err)
{
	char dir[PATH_MAX];
	struct system_root *root = calloc(1, sizeof(*root));
	if (!root)
		return cow_error_no_memory(err);
	root->fd = -1;
	*name = NULL;
	int ret = cow_path_resolve(path, &root->via, err);
	if (!ret) {
		char *slash = strrchr(strcpy(dir, root->via.full), '/');
		*name = strdup(slash + 1);
		slash[slash == dir] = '\0';
		ret = *name ? set_up_root(root, host, dir) : -ENOMEM;
	}
	if (ret) {
		free(*name);
		system_root_close(&root->base);
		return cannot_open(path, ret, err);
	}
	*out = &root->base;
	return 0;
}

static int system_root_open_file(struct cow_root *base, const char *name, unsigned flags,
				 struct cow_file **out, struct cow_error *err)
{
	struct system_root *root = (struct system_root *)base;
	char shown[2 * PATH_MAX];
	snprintf(shown, sizeof(shown), "%s/%s", base->path[1] ? base->path : "", name);
	const struct place at = { root->fd, name, shown, &root->via };
	return open_there(base->host, &at, flags, out, err);
}

int cow_system_adopt(int fd, const char *name, unsigned flags, struct cow_file **out,
		     struct cow_error *err)
{
	int ret = set_up(cow_host_system(), name, flags, fd, out, err);
	if (ret)
		close(fd);
	return ret;
}

static int system_keep(struct cow_file *file, struct cow_file **out, struct cow_error *err)
{
	unsigned flags = COW_OPEN_NO_LOCK | (file->writable ? COW_OPEN_WRITE : 0) |
			 (file->direct ? 0 : COW_OPEN_BUFFERED);
	int fd = fcntl(cow_host_fd(file), F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return cannot_open(file->path, -errno, err);
	int ret = cow_system_adopt(fd, file->path, flags, out, err);
	if (!ret)
		((struct cow_host_file *)file)->kept = true;
	return ret;
}

void cow_system_share_lock(struct cow_file *file)
{
	((struct cow_host_file *)file)->kept = true;
}

void cow_system_own_lock(struct cow_file *file)
{
	((struct cow_host_file *)file)->kept = false;
}

static int system_lock(struct cow_file *file, struct cow_error *err)
{
	struct stat st;
	uint64_t bytes;
	int fd = cow_host_fd(file);
	int ret = cow_lock_image(fd, file->writable ? COW_LOCK_WRITER : COW_LOCK_READER, file->path,
				 err);
	if (ret)
		return ret;
	ret = fstat(fd, &st) ? -errno : file_size(fd, &st, &bytes);
	if (ret)
		return cannot_open(file->path, ret, err);
	file->size_bytes = bytes;
	file->unlocked = false;
	return 0;
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
	if (!file->kept)
		cow_lock_release(file->fd);
	close(file->fd);
	if (file->dir_fd >= 0)
		close(file->dir_fd);
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

static int system_realpath(struct cow_host *host, const char *path, char **out)
{
	struct cow_path real;
	struct cow_error err = { 0 };
	int ret = cow_path_resolve(path, &real, &err);
	if (!ret && real.missing)
		ret = -ENOENT;
	*out = ret ? NULL : strdup(real.full);
	return ret ? ret : *out ? 0 : -ENOMEM;
}

void cow_system_remove(struct cow_file *base)
{
	struct cow_host_file *file = (struct cow_host_file *)base;
	if (file->dir_fd >= 0)
		take_away(file->dir_fd, file->name, file->fd);
	system_close(base);
}

static void system_drop_cache(struct cow_file *file)
{
	if (file->direct && !file->block_device)
		posix_fadvise(cow_host_fd(file), 0, 0, POSIX_FADV_DONTNEED);
}

/* ---- for the tools of whole disks ---- */

static bool system_look(struct cow_file *file, uint64_t off, bool *hole, uint64_t *end)
{
	int fd = cow_host_fd(file);
	if (file->block_device)
		return false;
	off_t data = lseek(fd, (off_t)off, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		return false;
	*hole = data != (off_t)off;
	off_t to = *hole ? data : lseek(fd, (off_t)off, SEEK_HOLE);
	*end = to > (off_t)off ? (uint64_t)to : UINT64_MAX; /* no data up to the end */
	return true;
}

static bool system_stored(struct cow_file *file, uint64_t *bytes)
{
	struct stat st;
	if (fstat(cow_host_fd(file), &st) || !S_ISREG(st.st_mode))
		return false;
	*bytes = (uint64_t)st.st_blocks * 512;
	return true;
}

static int system_clone(const struct cow_file_range *range)
{
	struct file_clone_range clone = { .src_fd = cow_host_fd(range->from),
					  .src_offset = range->from_off,
					  .src_length = range->bytes,
					  .dest_offset = range->to_off };
	return ioctl(cow_host_fd(range->to), FICLONERANGE, &clone) ? -errno : 0;
}

static int system_copy(const struct cow_file_range *range)
{
	off_t from = (off_t)range->from_off, to = (off_t)range->to_off;
	uint64_t bytes = range->bytes;
	while (bytes) {
		ssize_t n = copy_file_range(cow_host_fd(range->from), &from, cow_host_fd(range->to),
					    &to, bytes, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ENODATA;
		bytes -= (uint64_t)n;
	}
	return 0;
}

struct cow_host *cow_host_system(void)
{
	static const struct cow_host_ops ops = {
		.open = system_open,
		.close = system_close,
		.realpath = system_realpath,
		.drop_cache = system_drop_cache,
		.length = system_length,
		.root_open = system_root_open,
		.root_of = system_root_of,
		.root_open_file = system_root_open_file,
		.root_close = system_root_close,
		.lock = system_lock,
		.keep = system_keep,
		.look = system_look,
		.stored = system_stored,
		.clone = system_clone,
		.copy = system_copy,
	};
	static struct cow_host host = { .ops = &ops };
	return &host;
}
