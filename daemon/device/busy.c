/* SPDX-License-Identifier: MIT */
/*
 * Looks, in this order, for mounts, holders (device mapper, MD), swap and open files. Whether the
 * device is in use is for the kernel to say (O_EXCL, TRY_STOP_DEV); this finds who, and those whom
 * old kernels overlook.
 */
#include "daemon/device/busy.h"

#include <ctype.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

struct search {
	const char *disk;
	char *text;
	size_t len;
};

/* "ublkb0" and "ublkb0p1" belong to disk "ublkb0", "ublkb01" does not. */
static bool belongs(const char *name, const char *disk)
{
	size_t n = strlen(disk);
	if (strncmp(name, disk, n))
		return false;
	return !name[n] || (name[n] == 'p' && isdigit((unsigned char)name[n + 1]));
}

/* The name of a block device by its number, "" if it has none. */
static void name_of_dev(unsigned maj, unsigned min, char *name, size_t len)
{
	char path[64];
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", maj, min);
	name[0] = '\0';
	char *real = realpath(path, NULL);
	if (real)
		snprintf(name, len, "%s", strrchr(real, '/') + 1);
	free(real);
}

/* One line of mountinfo: ID PARENT MAJ:MIN ROOT MOUNTPOINT OPTIONS [FIELDS] - TYPE SOURCE SUPER */
static bool check_mount(const struct search *s, const char *line)
{
	unsigned maj, min;
	char where[1024], name[128], source[1024] = "";
	if (sscanf(line, "%*d %*d %u:%u %*s %1023s", &maj, &min, where) != 3)
		return false;
	const char *rest = strstr(line, " - ");
	if (rest)
		sscanf(rest, " - %*s %1023s", source);
	name_of_dev(maj, min, name, sizeof(name));
	if (!belongs(name, s->disk)) { /* btrfs has device numbers of its own */
		if (strncmp(source, "/dev/", 5) || !belongs(source + 5, s->disk))
			return false;
		snprintf(name, sizeof(name), "%.100s", source + 5);
	}
	snprintf(s->text, s->len, "/dev/%s is mounted on %s", name, where);
	return true;
}

static bool check_swap(const struct search *s, const char *line)
{
	char path[1024];
	if (sscanf(line, "%1023s", path) != 1 || strncmp(path, "/dev/", 5) ||
	    !belongs(path + 5, s->disk))
		return false;
	snprintf(s->text, s->len, "%s is used as swap", path);
	return true;
}

static bool search_lines(const struct search *s, const char *path,
			 bool (*check)(const struct search *s, const char *line))
{
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	char *line = NULL;
	size_t size = 0;
	bool found = false;
	while (!found && getline(&line, &size, f) > 0)
		found = check(s, line);
	free(line);
	fclose(f);
	return found;
}

static bool check_holders(const struct search *s, const char *dir, const char *name)
{
	char path[512];
	snprintf(path, sizeof(path), "%s/holders", dir);
	DIR *d = opendir(path);
	if (!d)
		return false;
	struct dirent *e;
	bool found = false;
	while (!found && (e = readdir(d)))
		if (e->d_name[0] != '.') {
			snprintf(s->text, s->len, "/dev/%s is held by %s", name, e->d_name);
			found = true;
		}
	closedir(d);
	return found;
}

static bool search_holders(const struct search *s)
{
	char dir[128], sub[400];
	snprintf(dir, sizeof(dir), "/sys/block/%s", s->disk);
	if (check_holders(s, dir, s->disk))
		return true;
	DIR *d = opendir(dir);
	if (!d)
		return false;
	struct dirent *e;
	bool found = false;
	while (!found && (e = readdir(d)))
		if (strcmp(e->d_name, s->disk) && belongs(e->d_name, s->disk)) {
			snprintf(sub, sizeof(sub), "%s/%s", dir, e->d_name);
			found = check_holders(s, sub, e->d_name);
		}
	closedir(d);
	return found;
}

static bool check_process(const struct search *s, const char *pid)
{
	char path[600], name[128], comm[64] = "?";
	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	DIR *d = opendir(path);
	if (!d)
		return false;
	struct dirent *e;
	bool found = false;
	while (!found && (e = readdir(d))) {
		struct stat st;
		snprintf(path, sizeof(path), "/proc/%s/fd/%s", pid, e->d_name);
		if (e->d_name[0] == '.' || stat(path, &st) || !S_ISBLK(st.st_mode))
			continue;
		name_of_dev(major(st.st_rdev), minor(st.st_rdev), name, sizeof(name));
		found = belongs(name, s->disk);
	}
	closedir(d);
	if (!found)
		return false;
	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	FILE *f = fopen(path, "re");
	if (f) {
		if (fscanf(f, "%63[^\n]", comm) != 1)
			strcpy(comm, "?");
		fclose(f);
	}
	snprintf(s->text, s->len, "/dev/%s is open in process %s (%s)", name, pid, comm);
	return true;
}

static bool search_processes(const struct search *s)
{
	DIR *d = opendir("/proc");
	if (!d)
		return false;
	struct dirent *e;
	bool found = false;
	while (!found && (e = readdir(d)))
		found = isdigit((unsigned char)e->d_name[0]) && check_process(s, e->d_name);
	closedir(d);
	return found;
}

bool cow_busy_find(const char *disk, char *text, size_t len)
{
	struct search s = { disk, text, len };
	return search_lines(&s, "/proc/self/mountinfo", check_mount) || search_holders(&s) ||
	       search_lines(&s, "/proc/swaps", check_swap) || search_processes(&s);
}
