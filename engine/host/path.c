/* SPDX-License-Identifier: MIT */
/* See path.h: opening, then types and owners, then resolving. */
#include "engine/host/path.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MAX_LINKS 40 /* as the kernel's */

/* ---- opening ---- */

static int open_dir(int dir, const char *name)
{
	int fd = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/*
 * For kernels before 5.6, and system call filters that do not know openat2: one component at a
 * time, each from a descriptor of the one before, which comes to the same.
 */
static int walk(int dir, const char *name, int flags, mode_t mode)
{
	char component[NAME_MAX + 1];
	int at = open_dir(dir, "."), ret;
	while (at >= 0) {
		size_t len = strcspn(name, "/");
		bool last = !name[len];
		if (len > NAME_MAX) {
			ret = -ENAMETOOLONG;
			break;
		}
		memcpy(component, name, len);
		component[len] = '\0';
		if (!strcmp(component, "..")) {
			ret = -EXDEV;
			break;
		}
		ret = last ? openat(at, component, flags, mode) : open_dir(at, component);
		if (last && ret < 0)
			ret = -errno;
		if (last || ret < 0)
			break;
		close(at);
		at = ret;
		name += len + 1;
	}
	if (at < 0)
		return at;
	close(at);
	return ret;
}

int cow_path_open(int dir, const char *name, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(flags | O_CLOEXEC | O_NOFOLLOW),
		.mode = flags & O_CREAT ? mode : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	if (!*name)
		name = ".";
	long fd = syscall(SYS_openat2, dir, name, &how, sizeof(how));
	if (fd >= 0)
		return (int)fd;
	if (errno != ENOSYS && errno != EPERM)
		return -errno;
	return walk(dir, name, flags | O_CLOEXEC | O_NOFOLLOW, mode);
}

int cow_path_open_slash(void)
{
	int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* ---- types and owners ---- */

static int check_type(const struct stat *st, unsigned types, const char *shown,
		      struct cow_error *err)
{
	const char *what = "an object of unknown type";
	if ((S_ISREG(st->st_mode) && types & COW_PATH_FILE) ||
	    (S_ISBLK(st->st_mode) && types & COW_PATH_BLOCK) ||
	    (S_ISFIFO(st->st_mode) && types & COW_PATH_FIFO))
		return 0;
	if (S_ISLNK(st->st_mode))
		return cow_error_set(err, -ELOOP, "%s: became a symbolic link meanwhile: try again",
				     shown);
	if (S_ISDIR(st->st_mode))
		what = "a directory";
	else if (S_ISCHR(st->st_mode))
		what = "a character device";
	else if (S_ISFIFO(st->st_mode))
		what = "a pipe";
	else if (S_ISSOCK(st->st_mode))
		what = "a socket";
	else if (S_ISBLK(st->st_mode))
		what = "a block device";
	return cow_error_set(err, S_ISDIR(st->st_mode) ? -EISDIR : -EINVAL, "%s: is %s: give %s",
			     shown, what,
			     types & COW_PATH_BLOCK ? "a regular file or a block device"
						    : "a regular file or a pipe");
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_rdev == b->st_rdev &&
	       (a->st_mode & S_IFMT) == (b->st_mode & S_IFMT);
}

int cow_path_open_typed(int dir, const char *name, int flags, unsigned types, const char *shown,
			struct stat *st, struct cow_error *err)
{
	struct stat seen;
	int look = cow_path_open(dir, name, O_PATH, 0);
	if (look < 0)
		return look;
	int ret = fstat(look, &seen) ? -errno : check_type(&seen, types, shown, err);
	if (!ret)
		ret = cow_path_open(dir, name, flags, 0);
	if (ret >= 0 && (fstat(ret, st) || !same_file(st, &seen))) {
		close(ret);
		ret = cow_error_set(err, -ESTALE,
				    "%s: was exchanged for another file meanwhile: try again",
				    shown);
	}
	close(look);
	return ret;
}

static bool is_same(const struct stat *st, const struct cow_path *path)
{
	return S_ISBLK(st->st_mode) ? st->st_rdev == path->dev && path->ino == UINT64_MAX
				    : st->st_dev == path->dev && st->st_ino == path->ino;
}

int cow_path_check(const struct cow_path *path, const struct stat *st, const char *shown,
		   struct cow_error *err)
{
	if (path->is_descriptor && !is_same(st, path))
		return cow_error_set(
			err, -ESTALE,
			"%s: is not to be had by its name any more: %s is another file", shown,
			path->full);
	if (path->link_owner == COW_PATH_ANY_OWNER || path->link_owner == st->st_uid)
		return 0;
	return cow_error_set(err, -EPERM,
			     "%s: a symbolic link of user %u leads to %s, which is user %u's: "
			     "give that name itself",
			     shown, (unsigned)path->link_owner, path->full, (unsigned)st->st_uid);
}

/* ---- resolving ---- */

struct resolving {
	struct cow_path *path; /* full: what is done */
	char rest[PATH_MAX];   /* what is still to do */
	const char *name;
	unsigned nr_links;
	bool last_is_link; /* a link stood where the name ends */
	int slash;
};

static void strip_last(char *full)
{
	char *slash = strrchr(full, '/');
	if (slash)
		*slash = '\0';
}

static int append(char *full, const char *component, size_t len)
{
	size_t used = strlen(full);
	if (used + 1 + len >= PATH_MAX)
		return -ENAMETOOLONG;
	full[used] = '/';
	memcpy(full + used + 1, component, len);
	full[used + 1 + len] = '\0';
	return 0;
}

/* Whose link it is decides what it may lead to; links of several strangers lead nowhere. */
static int note_owner(struct resolving *r, const struct stat *st, struct cow_error *err)
{
	uid_t *owner = &r->path->link_owner;
	if (!st->st_uid || st->st_uid == geteuid() || st->st_uid == *owner)
		return 0;
	if (*owner != COW_PATH_ANY_OWNER)
		return cow_error_set(err, -EPERM,
				     "%s: leads through symbolic links of users %u and %u: give "
				     "the name that they lead to",
				     r->name, (unsigned)*owner, (unsigned)st->st_uid);
	*owner = st->st_uid;
	return 0;
}

/* The link takes the place of its last component in what is done, and goes in front of the rest. */
static int follow(struct resolving *r, int fd, const struct stat *st, struct cow_error *err)
{
	char target[PATH_MAX];
	struct statfs fs;
	if (++r->nr_links > MAX_LINKS)
		return -ELOOP;
	if (fstatfs(fd, &fs))
		return -errno;
	if (fs.f_type == PROC_SUPER_MAGIC)
		return cow_error_set(err, -ELOOP,
				     "%s: leads through %s, a link of /proc: give the name that it "
				     "stands for",
				     r->name, r->path->full);
	ssize_t n = readlinkat(fd, "", target, sizeof(target));
	if (n < 0)
		return -errno;
	size_t left = strlen(r->rest);
	if ((size_t)n + left >= sizeof(target))
		return -ENAMETOOLONG;
	r->last_is_link = !left;
	memcpy(target + n, r->rest, left + 1);
	memcpy(r->rest, target, (size_t)n + left + 1);
	strip_last(r->path->full);
	if (r->rest[0] == '/')
		r->path->full[0] = '\0';
	return note_owner(r, st, err);
}

static int look(struct resolving *r, struct cow_error *err)
{
	char *full = r->path->full;
	struct stat st;
	int fd = cow_path_open(r->slash, full + 1, O_PATH, 0);
	if (fd == -ENOENT && !r->rest[0] && !r->last_is_link) {
		r->path->missing = true;
		return 0;
	}
	if (fd == -ENOENT && r->last_is_link)
		return cow_error_set(err, fd,
				     "%s: a symbolic link leads to %s, which is not there: give "
				     "that name itself",
				     r->name, full);
	if (fd < 0)
		return fd;
	int ret = fstat(fd, &st) ? -errno : 0;
	if (!ret && S_ISLNK(st.st_mode))
		ret = follow(r, fd, &st, err);
	else if (!ret && r->rest[0] && !S_ISDIR(st.st_mode))
		ret = -ENOTDIR;
	close(fd);
	return ret;
}

/* Takes the first component of the rest. */
static int step(struct resolving *r, struct cow_error *err)
{
	char component[NAME_MAX + 1];
	char *full = r->path->full;
	size_t slashes = strspn(r->rest, "/"), len = strcspn(r->rest + slashes, "/");
	if (len > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(component, r->rest + slashes, len);
	component[len] = '\0';
	memmove(r->rest, r->rest + slashes + len, strlen(r->rest + slashes + len) + 1);
	if (!len || !strcmp(component, "."))
		return 0;
	if (!strcmp(component, "..")) {
		strip_last(full);
		return 0;
	}
	int ret = append(full, component, len);
	return ret ? ret : look(r, err);
}

/* The caller's own descriptor stands for the name that its file has now, which is then looked at. */
static int own_descriptor(const char *name, struct cow_path *path, char *own)
{
	static const char *const folders[] = { "/dev/fd/", "/proc/self/fd/" };
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		size_t n = strlen(folders[i]);
		char link[64];
		struct stat st;
		if (strncmp(name, folders[i], n) || !name[n] || strlen(name + n) > 10 ||
		    name[n + strspn(name + n, "0123456789")])
			continue;
		snprintf(link, sizeof(link), "/proc/self/fd/%s", name + n);
		ssize_t got = readlink(link, own, PATH_MAX - 1);
		if (got <= 0 || own[0] != '/')
			return -ENOENT;
		own[got] = '\0';
		if (stat(link, &st))
			return -errno;
		path->is_descriptor = true;
		path->dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
		path->ino = S_ISBLK(st.st_mode) ? UINT64_MAX : st.st_ino;
		return 0;
	}
	return -ENOENT;
}

static int start(struct resolving *r, const char *name)
{
	char *full = r->path->full;
	char own[PATH_MAX];
	if (!own_descriptor(name, r->path, own))
		name = own;
	size_t len = strlen(name);
	full[0] = '\0';
	if (!len)
		return -ENOENT;
	if (len >= sizeof(r->rest))
		return -ENAMETOOLONG;
	memcpy(r->rest, name, len + 1);
	if (name[0] == '/')
		return 0;
	if (!getcwd(full, PATH_MAX))
		return -errno;
	if (full[0] != '/')
		return -ENOENT;
	if (!full[1])
		full[0] = '\0';
	return 0;
}

int cow_path_resolve(const char *name, struct cow_path *path, struct cow_error *err)
{
	struct resolving r = { .path = path, .name = name };
	path->link_owner = COW_PATH_ANY_OWNER;
	path->missing = path->is_descriptor = false;
	int ret = start(&r, name);
	r.slash = ret ? ret : cow_path_open_slash();
	if (r.slash < 0)
		return cow_error_set(err, r.slash, "%s: cannot open: %s", name, strerror(-r.slash));
	while (!ret && r.rest[0])
		ret = step(&r, err);
	close(r.slash);
	if (!path->full[0])
		strcpy(path->full, "/");
	return ret ? cow_error_set(err, ret, "%s: cannot open: %s", name, strerror(-ret)) : 0;
}
