/* SPDX-License-Identifier: MIT */
/*
 * The kernel names the process of an ordinary lock. One of an open file description has none: those
 * who have the file open say in /proc/PID/fdinfo which locks they have.
 */
#include "engine/host/holder.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* "lock:  1: OFDLCK  ADVISORY  READ -1 00:2a:1234 100 103": the first and the last byte, or EOF. */
static bool is_lock(const char *line, const struct flock *lock)
{
	unsigned long long first, last;
	char end[24];
	if (strncmp(line, "lock:", 5) || !strstr(line, "OFDLCK") ||
	    sscanf(line, "lock: %*s %*s %*s %*s %*s %*s %llu %23s", &first, end) != 2)
		return false;
	last = is_number(end) ? strtoull(end, NULL, 10) : ~0ull;
	return first <= (unsigned long long)lock->l_start &&
	       (unsigned long long)lock->l_start <= last;
}

static bool has_lock(const char *pid, const char *fd, const struct flock *lock)
{
	char path[64], line[256];
	snprintf(path, sizeof(path), "/proc/%.16s/fdinfo/%.16s", pid, fd);
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	bool found = false;
	while (!found && fgets(line, sizeof(line), f))
		found = is_lock(line, lock);
	fclose(f);
	return found;
}

/* What the kernel has at hand: no server is asked. */
static bool look_at(int dir, const char *name, int flags, struct statx *st)
{
	return !statx(dir, name, flags | AT_STATX_DONT_SYNC, STATX_INO, st);
}

static bool same_file(const struct statx *a, const struct statx *b)
{
	return a->stx_ino == b->stx_ino && a->stx_dev_major == b->stx_dev_major &&
	       a->stx_dev_minor == b->stx_dev_minor;
}

static bool is_process(const char *pid, int own_fd, const struct statx *image,
		       const struct flock *lock)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	DIR *dir = opendir(path);
	if (!dir)
		return false;
	bool self = atol(pid) == (long)getpid(), found = false;
	struct dirent *entry;
	while (!found && (entry = readdir(dir)) != NULL) {
		struct statx st;
		found = is_number(entry->d_name) && !(self && atoi(entry->d_name) == own_fd) &&
			look_at(dirfd(dir), entry->d_name, 0, &st) && same_file(&st, image) &&
			has_lock(pid, entry->d_name, lock);
	}
	closedir(dir);
	return found;
}

static long find_process(int fd, const struct flock *lock)
{
	struct statx image;
	long pid = 0;
	DIR *proc = opendir("/proc");
	if (!proc)
		return 0;
	struct dirent *entry;
	while (look_at(fd, "", AT_EMPTY_PATH, &image) && !pid && (entry = readdir(proc)) != NULL)
		if (is_number(entry->d_name) && is_process(entry->d_name, fd, &image, lock))
			pid = atol(entry->d_name);
	closedir(proc);
	return pid;
}

bool cow_holder_find(int fd, const struct flock *lock, struct cow_holder *holder)
{
	char path[64];
	*holder = (struct cow_holder){ .pid = lock->l_pid };
	/* -1: an open file description's; 0, or less than that: of another container or machine. */
	if (holder->pid <= 0)
		holder->pid = find_process(fd, lock);
	if (!holder->pid)
		return false;
	snprintf(path, sizeof(path), "/proc/%ld/comm", holder->pid);
	read_line(path, holder->name, sizeof(holder->name));
	return true;
}
