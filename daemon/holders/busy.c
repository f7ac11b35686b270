/* SPDX-License-Identifier: MIT */
/*
 * Whether the device is in use is for the kernel to say (O_EXCL, TRY_STOP_DEV); this finds who, and
 * those whom old kernels overlook: mounts, swap, devices that nothing is known to use, and if there
 * is none of these open files.
 */
#include "daemon/holders/busy.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "daemon/holders/child.h"
#include "daemon/holders/fs.h"

#define MAX_TOLD 3
/* A look at a system takes milliseconds; what takes longer is stuck. */
#define LOOK_LIMIT_MS 5000

struct search {
	struct cow_fs_list list;
	bool *used; /* for each device of the stack: somebody is told of, or something lies on it */
	unsigned nr_found;
	char *text;
	size_t len, at;
};

static void tell(struct search *s, int on, const char *how)
{
	char below[256];
	if (on >= 0 && s->used)
		s->used[on] = true;
	if (s->nr_found++ >= MAX_TOLD || s->at >= s->len)
		return;
	cow_stack_describe(&s->list.stack, on, below, sizeof(below));
	s->at += (size_t)snprintf(s->text + s->at, s->len - s->at, "%s%s%s %s", s->at ? "; " : "",
				  on < 0 ? "" : s->list.stack.devs[on].path, below, how);
}

/* What the kernel has at hand: a server that does not answer (NFS, FUSE) is not asked. */
static bool ask_kernel(int dir, const char *name, struct statx *st)
{
	return !statx(dir, name, AT_STATX_DONT_SYNC, STATX_TYPE, st);
}

static dev_t device_of(const struct statx *st)
{
	return makedev(st->stx_dev_major, st->stx_dev_minor);
}

static dev_t device_at(const struct statx *st)
{
	return makedev(st->stx_rdev_major, st->stx_rdev_minor);
}

static void look_at_mounts(struct search *s)
{
	char how[512];
	for (unsigned i = 0; i < s->list.nr; i++) {
		const struct cow_fs *fs = &s->list.fs[i];
		const struct cow_fs_mount *m = &fs->mounts[0];
		const struct cow_mntns *ns = &s->list.namespaces.ns[m->ns];
		size_t n = (size_t)snprintf(how, sizeof(how), "is mounted on %.300s", m->where);
		if (m->ns && ns->pid)
			snprintf(how + n, sizeof(how) - n,
				 " in the mount namespace of process %d (%s)", ns->pid, ns->comm);
		else if (m->ns)
			snprintf(how + n, sizeof(how) - n,
				 " in a mount namespace without processes");
		tell(s, fs->on, how);
	}
}

/* Swap on a device, or in a file of a file system. */
static void look_at_swap(struct search *s)
{
	char path[1200], how[1300];
	struct statx st;
	FILE *f = fopen("/proc/swaps", "re");
	if (!f)
		return;
	while (fgets(path, sizeof(path), f)) {
		path[strcspn(path, " \t")] = '\0';
		if (path[0] != '/' || !ask_kernel(AT_FDCWD, path, &st))
			continue;
		int on = S_ISBLK(st.stx_mode) ? cow_stack_find(&s->list.stack, device_at(&st)) : -1;
		if (on >= 0)
			tell(s, on, "is used as swap");
		for (unsigned i = 0; S_ISREG(st.stx_mode) && i < s->list.nr; i++)
			if (s->list.fs[i].dev == device_of(&st)) {
				snprintf(how, sizeof(how), "has the swap file %s", path);
				tell(s, s->list.fs[i].on, how);
			}
	}
	fclose(f);
}

/* An ext4 that keeps its journal here, and its files elsewhere. */
static void look_at_journals(struct search *s)
{
	char path[80];
	for (unsigned i = 0; i < s->list.stack.nr; i++) {
		snprintf(path, sizeof(path), "/proc/fs/jbd2/%s", s->list.stack.devs[i].name);
		if (!access(path, F_OK))
			tell(s, (int)i, "is the journal of an ext4 file system");
	}
}

/* Nobody is known to use them, but they hold what they lie on. */
static void look_at_holders(struct search *s)
{
	char how[200];
	const struct cow_stack *stack = &s->list.stack;
	for (unsigned i = stack->nr; i-- > 1;) {
		const struct cow_stack_dev *dev = &stack->devs[i];
		if (!s->used[i] && !dev->partition) {
			snprintf(how, sizeof(how), "is held by %s", dev->path);
			tell(s, dev->below, how);
		}
		s->used[dev->below] |= s->used[i];
	}
}

/* What a descriptor of a process, or its current directory, is to us. */
static int kept_by(const struct search *s, int dir, const char *name, const char **how)
{
	struct statx st;
	if (!ask_kernel(dir, name, &st))
		return -1;
	*how = "is open";
	if (S_ISBLK(st.stx_mode))
		return cow_stack_find(&s->list.stack, device_at(&st));
	*how = "has a file system that was unmounted lazily and is in use";
	return cow_stack_find(&s->list.stack, device_of(&st));
}

static int look_at_files(const struct search *s, const char *pid, const char **how)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	DIR *d = opendir(path);
	int on = -1;
	if (!d)
		return -1;
	struct dirent *e;
	while (on < 0 && (e = readdir(d)))
		if (e->d_name[0] != '.')
			on = kept_by(s, dirfd(d), e->d_name, how);
	if (on < 0)
		on = kept_by(s, dirfd(d), "../cwd", how);
	closedir(d);
	return on;
}

static void look_at_processes(struct search *s)
{
	char path[64], comm[64], text[200];
	DIR *d = opendir("/proc");
	if (!d)
		return;
	struct dirent *e;
	while ((e = readdir(d))) {
		const char *how = "";
		int on = isdigit((unsigned char)e->d_name[0]) ? look_at_files(s, e->d_name, &how)
							      : -1;
		if (on < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%.20s/comm", e->d_name);
		FILE *f = fopen(path, "re");
		if (!f || fscanf(f, "%63[^\n]", comm) != 1)
			strcpy(comm, "?");
		if (f)
			fclose(f);
		snprintf(text, sizeof(text), "%s in process %.20s (%s)", how, e->d_name, comm);
		tell(s, on, text);
	}
	closedir(d);
}

static enum cow_busy find(const char *disk, enum cow_mntns_scope scope, char *text, size_t len)
{
	struct search s = { .text = text, .len = len };
	if (cow_fs_find(&s.list, disk, scope))
		return COW_BUSY_NOBODY;
	s.used = calloc(s.list.stack.nr, sizeof(*s.used));
	if (s.used) {
		look_at_mounts(&s);
		look_at_swap(&s);
		look_at_journals(&s);
		look_at_holders(&s);
		if (!s.nr_found)
			look_at_processes(&s);
	}
	if (s.nr_found > MAX_TOLD && s.at < len)
		snprintf(text + s.at, len - s.at, "; and %u more", s.nr_found - MAX_TOLD);
	free(s.used);
	cow_fs_fini(&s.list);
	return s.nr_found ? COW_BUSY_SOMEBODY : COW_BUSY_NOBODY;
}

static enum cow_busy find_here(const char *disk, char *text, size_t len)
{
	return find(disk, COW_MNTNS_OWN, text, len);
}

/* ---- everywhere ---- */

static void look(int fd, void *ctx)
{
	char text[COW_CHILD_TEXT_BYTES] = "+";
	if (find(ctx, COW_MNTNS_ALL, text + 1, sizeof(text) - 1) == COW_BUSY_NOBODY)
		text[0] = '-';
	COW_IGNORE(cow_child_send(fd, text, -1));
}

enum cow_busy cow_busy_find_everywhere(const char *disk, char *text, size_t len)
{
	struct cow_child child;
	char said[COW_CHILD_TEXT_BYTES];
	if (cow_child_start(&child, "cowblk-looker", look, (void *)(size_t)disk))
		return find_here(disk, text, len);
	int ret = cow_child_receive(child.fd, LOOK_LIMIT_MS, said, NULL);
	cow_child_leave(&child);
	if (ret == -ETIMEDOUT) {
		snprintf(text, len, "looking for who uses it takes longer than %d s",
			 LOOK_LIMIT_MS / 1000);
		return COW_BUSY_UNKNOWN;
	}
	if (ret || said[0] != '+')
		return COW_BUSY_NOBODY;
	snprintf(text, len, "%s", said + 1);
	return COW_BUSY_SOMEBODY;
}
