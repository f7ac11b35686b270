/* SPDX-License-Identifier: MIT */
#include "engine/host/lock.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PERM_BASE 100
#define UNSHARED_BASE 200
#define NR_PERMS 4
/* Together 64 ms on average, when somebody has the image for good. */
#define MAX_TRIES 6
#define FIRST_PAUSE_US 2000u

/* ---- who holds it: best effort, for the message only ---- */

struct holder {
	long pid;
	bool locks; /* seen to hold open-file-description locks, not only to have the file open */
	char name[32];
};

static bool is_number(const char *s)
{
	return isdigit((unsigned char)s[0]) && strspn(s, "0123456789") == strlen(s);
}

/* First line of a small file without its newline; "" on failure. */
static void read_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");
	if (!f || !fgets(buf, (int)size, f))
		buf[0] = '\0';
	if (f)
		fclose(f);
	buf[strcspn(buf, "\n")] = '\0';
}

static bool fdinfo_has_locks(const char *pid, const char *fd)
{
	char path[64], line[256];
	snprintf(path, sizeof(path), "/proc/%.16s/fdinfo/%.16s", pid, fd);
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	bool found = false;
	while (!found && fgets(line, sizeof(line), f))
		found = strstr(line, "OFDLCK") != NULL;
	fclose(f);
	return found;
}

/* Looks at the files that process pid has open. */
static void look_at_process(const char *pid, const struct stat *image, int own_fd,
			    struct holder *holder)
{
	char path[80];
	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	DIR *dir = opendir(path);
	if (!dir)
		return;
	bool self = atol(pid) == (long)getpid();
	struct dirent *entry;
	while (!holder->locks && (entry = readdir(dir)) != NULL) {
		struct stat st;
		if (!is_number(entry->d_name) || (self && atoi(entry->d_name) == own_fd))
			continue;
		if (fstatat(dirfd(dir), entry->d_name, &st, 0) < 0 || st.st_dev != image->st_dev ||
		    st.st_ino != image->st_ino)
			continue;
		bool locks = fdinfo_has_locks(pid, entry->d_name);
		if (holder->pid && !locks)
			continue;
		holder->pid = atol(pid);
		holder->locks = locks;
	}
	closedir(dir);
}

static void find_holder(int fd, struct holder *holder)
{
	struct stat image;
	DIR *proc = opendir("/proc");
	memset(holder, 0, sizeof(*holder));
	if (!proc || fstat(fd, &image) < 0)
		goto out;
	struct dirent *entry;
	while (!holder->locks && (entry = readdir(proc)) != NULL)
		if (is_number(entry->d_name))
			look_at_process(entry->d_name, &image, fd, holder);
	if (holder->pid) {
		char path[64];
		snprintf(path, sizeof(path), "/proc/%ld/comm", holder->pid);
		read_line(path, holder->name, sizeof(holder->name));
	}
out:
	if (proc)
		closedir(proc);
}

static int in_use(int fd, const char *path, struct cow_error *err)
{
	struct holder holder;
	find_holder(fd, &holder);
	if (!holder.pid)
		return cow_error_set(err, -EBUSY,
				     "%s: image is in use by another process: stop that first",
				     path);
	return cow_error_set(err, -EBUSY, "%s: image is in use by %ld %s: stop that first", path,
			     holder.pid, holder.name);
}

/* ---- the locks ---- */

static int lock_bytes(int fd, int base, unsigned bits)
{
	for (int bit = 0; bit < NR_PERMS; bit++) {
		struct flock fl = {
			.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = base + bit, .l_len = 1
		};
		if ((bits & (1u << bit)) && fcntl(fd, F_OFD_SETLK, &fl) < 0)
			return -errno;
	}
	return 0;
}

/* 1 if another open file description has one of the bytes locked. */
static int others_have(int fd, int base, unsigned bits)
{
	for (int bit = 0; bit < NR_PERMS; bit++) {
		struct flock fl = {
			.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = base + bit, .l_len = 1
		};
		if (!(bits & (1u << bit)))
			continue;
		if (fcntl(fd, F_OFD_GETLK, &fl) < 0)
			return -errno;
		if (fl.l_type != F_UNLCK)
			return 1;
	}
	return 0;
}

static int try_lock(int fd, unsigned uses, unsigned unshared)
{
	int ret = lock_bytes(fd, PERM_BASE, uses);
	if (!ret)
		ret = lock_bytes(fd, UNSHARED_BASE, unshared);
	if (!ret)
		ret = others_have(fd, UNSHARED_BASE, uses);
	if (!ret)
		ret = others_have(fd, PERM_BASE, unshared);
	return ret == 1 || ret == -EACCES ? -EAGAIN : ret;
}

/* Up to twice as long with each try: a server's locks take milliseconds, local ones microseconds. */
static void pause_at_random(unsigned tries)
{
	uint32_t random = 0;
	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
		random = (uint32_t)getpid() * 2654435761u;
	uint32_t us = random % (FIRST_PAUSE_US << tries) + 1;
	nanosleep(&(struct timespec){ .tv_nsec = (long)us * 1000 }, NULL);
}

/*
 * The one who sees the other's locks cannot tell whether that one holds them or is about to see
 * ours and give up, so he gives up his and comes again, a few times: of two who come at once one
 * wins.
 */
int cow_lock_image(int fd, bool writer, const char *path, struct cow_error *err)
{
	unsigned uses = writer ? COW_LOCK_READ | COW_LOCK_WRITE | COW_LOCK_RESIZE : COW_LOCK_READ;
	unsigned unshared = COW_LOCK_WRITE | COW_LOCK_RESIZE;

	int ret = try_lock(fd, uses, unshared);
	for (unsigned tries = 0; ret == -EAGAIN && tries < MAX_TRIES; tries++) {
		cow_lock_release(fd);
		pause_at_random(tries);
		ret = try_lock(fd, uses, unshared);
	}
	if (ret == -EAGAIN)
		return in_use(fd, path, err);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot lock the image: %s", path,
				     strerror(-ret));
	return 0;
}

void cow_lock_release(int fd)
{
	struct flock all = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	fcntl(fd, F_OFD_SETLK, &all);
}
