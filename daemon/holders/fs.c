/* SPDX-License-Identifier: MIT */
/* See fs.h: which mounts, loop devices over their files, opening, what lies elsewhere, words. */
#include "daemon/holders/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "daemon/holders/btrfs.h"

/* Loop devices in files of file systems in loop devices...: as deep as anybody looks. */
#define MAX_ROUNDS 16

struct search {
	struct cow_fs_list *list;
	bool btrfs; /* one is on the stack */
};

/* ---- which mounts ---- */

/* A value of the options that is the path of a device: XFS' log and realtime device. */
static int on_by_option(const struct cow_stack *stack, const char *super, const char *key)
{
	char path[256];
	const char *at = strstr(super, key);
	if (!at || (at != super && at[-1] != ','))
		return -1;
	at += strlen(key);
	snprintf(path, sizeof(path), "%.*s", (int)strcspn(at, ","), at);
	return cow_stack_find_path(stack, path);
}

/* A file system with a number of its own names its devices, bcachefs with colons between. */
static int on_by_source(const struct cow_stack *stack, const char *source)
{
	char names[1024], *save;
	snprintf(names, sizeof(names), "%s", source);
	int on = -1;
	for (char *p = strtok_r(names, ":", &save); p && on < 0; p = strtok_r(NULL, ":", &save))
		on = cow_stack_find_path(stack, p);
	return on;
}

/*
 * Opened where it is mounted, whatever is mounted over it: then the kernel says what it is. The
 * caller is in namespace ns and stays there.
 */
static int open_btrfs(const struct search *s, unsigned ns, const struct cow_mount *mount)
{
	const struct cow_mntns_list *namespaces = &s->list->namespaces;
	int fd = cow_mount_open(namespaces->proc_fd, mount->where, mount->id);
	if (fd >= 0)
		return fd;
	fd = cow_mount_open_covered(namespaces->proc_fd, mount);
	int back = cow_mntns_enter(namespaces, ns);
	if (back && fd >= 0)
		close(fd);
	return back ? back : fd;
}

/* Names of devices are for the mounts of the own namespace: elsewhere they may mean others. */
static int where_is(const struct search *s, unsigned ns, const struct cow_mount *mount)
{
	const struct cow_stack *stack = &s->list->stack;
	int on = cow_stack_find(stack, mount->dev);
	if (on >= 0)
		return on;
	if (!strcmp(mount->type, "btrfs")) {
		int fd = s->btrfs ? open_btrfs(s, ns, mount) : -1;
		if (fd >= 0) {
			on = cow_btrfs_on_fd(stack, fd);
			close(fd);
			return on;
		}
		return s->btrfs && !ns ? on_by_source(stack, mount->source) : -1;
	}
	/* Only of kinds that nobody but root can mount: others' sources may be anything. */
	if (!strcmp(mount->type, "bcachefs"))
		return on_by_source(stack, mount->source);
	if (strcmp(mount->type, "xfs"))
		return -1;
	on = on_by_option(stack, mount->super, "logdev=");
	return on >= 0 ? on : on_by_option(stack, mount->super, "rtdev=");
}

static struct cow_fs *find_fs(struct cow_fs_list *list, dev_t dev)
{
	for (unsigned i = 0; i < list->nr; i++)
		if (list->fs[i].dev == dev)
			return &list->fs[i];
	return NULL;
}

static struct cow_fs *add_fs(struct cow_fs_list *list, const struct cow_mount *mount, int on)
{
	struct cow_fs *fs = realloc(list->fs, (list->nr + 1) * sizeof(*fs));
	if (!fs)
		return NULL;
	list->fs = fs;
	fs = &list->fs[list->nr++];
	*fs = (struct cow_fs){ .dev = mount->dev, .on = on, .fd = -1 };
	snprintf(fs->type, sizeof(fs->type), "%s", mount->type);
	return fs;
}

static int add_mount(struct cow_fs *fs, unsigned ns, const struct cow_mount *mount)
{
	struct cow_fs_mount *m = realloc(fs->mounts, (fs->nr_mounts + 1) * sizeof(*m));
	if (!m)
		return -ENOMEM;
	fs->mounts = m;
	m += fs->nr_mounts;
	*m = (struct cow_fs_mount){ ns, mount->id, mount->parent, strdup(mount->root),
				    strdup(mount->where) };
	if (!m->root || !m->where) {
		free(m->root);
		free(m->where);
		return -ENOMEM;
	}
	fs->nr_mounts++;
	return 0;
}

static bool has_mount(const struct cow_fs *fs, unsigned ns, int id)
{
	for (unsigned i = 0; i < fs->nr_mounts; i++)
		if (fs->mounts[i].ns == ns && fs->mounts[i].id == id)
			return true;
	return false;
}

static int look_at(void *ctx, unsigned ns, const struct cow_mount *mount)
{
	struct search *s = ctx;
	struct cow_fs *fs = find_fs(s->list, mount->dev);
	if (!fs) {
		int on = where_is(s, ns, mount);
		if (on < 0)
			return 0;
		fs = add_fs(s->list, mount, on);
		if (!fs)
			return -ENOMEM;
	}
	return has_mount(fs, ns, mount->id) ? 0 : add_mount(fs, ns, mount);
}

static int look_everywhere(struct search *s)
{
	const struct cow_mntns_list *namespaces = &s->list->namespaces;
	int ret = 0;
	s->btrfs = cow_btrfs_on_any(&s->list->stack) >= 0;
	for (unsigned i = 0; ret != -ENOMEM && i < namespaces->nr; i++)
		ret = cow_mounts_each(namespaces, i, look_at, s);
	/* One whose last process has just gone has no mounts any more. */
	int back = cow_mntns_enter(namespaces, 0);
	return ret == -ENOMEM ? ret : back;
}

/* ---- loop devices ---- */

/* What folders' files say as their device, where that is not the file system's number (btrfs). */
static bool is_on_fs(struct cow_fs_list *list, const struct cow_fs *fs, dev_t dev)
{
	struct stat st;
	if (fs->dev == dev)
		return true;
	for (unsigned i = 0; major(fs->dev) == 0 && i < fs->nr_mounts; i++) {
		const struct cow_fs_mount *m = &fs->mounts[i];
		int fd = m->ns ? -1 : cow_mount_open(list->namespaces.proc_fd, m->where, m->id);
		bool same = fd >= 0 && !fstat(fd, &st) && st.st_dev == dev;
		if (fd >= 0)
			close(fd);
		if (same)
			return true;
	}
	return false;
}

static int below_loop(struct cow_fs_list *list, const char *name)
{
	char path[300];
	struct loop_info64 info;
	snprintf(path, sizeof(path), "block/%s/loop", name);
	if (faccessat(list->stack.sys_fd, path, F_OK, 0))
		return -1; /* not bound */
	int fd = openat(list->stack.dev_fd, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	int ret = fd < 0 ? -1 : ioctl(fd, LOOP_GET_STATUS64, &info);
	if (fd >= 0)
		close(fd);
	if (ret)
		return -1;
	int on = info.lo_rdevice ? cow_stack_find(&list->stack, (dev_t)info.lo_rdevice) : -1;
	for (unsigned i = 0; on < 0 && i < list->nr; i++)
		if (is_on_fs(list, &list->fs[i], (dev_t)info.lo_device))
			on = list->fs[i].on;
	return on;
}

static int add_loops(struct cow_fs_list *list)
{
	DIR *d = cow_stack_open_sys(&list->stack, "block");
	if (!d)
		return 0;
	int ret = 0;
	struct dirent *e;
	while (!ret && (e = readdir(d))) {
		if (strncmp(e->d_name, "loop", 4) ||
		    cow_stack_find_name(&list->stack, e->d_name) >= 0)
			continue;
		int below = below_loop(list, e->d_name);
		if (below >= 0)
			ret = cow_stack_add(&list->stack, e->d_name, below);
		if (ret == -ENODEV)
			ret = 0;
	}
	closedir(d);
	return ret;
}

int cow_fs_find(struct cow_fs_list *list, const char *disk, enum cow_mntns_scope scope)
{
	struct search s = { .list = list };
	*list = (struct cow_fs_list){ .stack.sys_fd = -1,
				      .stack.dev_fd = -1,
				      .namespaces.proc_fd = -1 };
	int ret = cow_stack_build(&list->stack, disk);
	if (!ret)
		ret = cow_mntns_collect(&list->namespaces, scope);
	unsigned nr = 0;
	for (int round = 0; !ret && nr != list->stack.nr && round < MAX_ROUNDS; round++) {
		nr = list->stack.nr;
		ret = look_everywhere(&s);
		if (!ret)
			ret = add_loops(list);
	}
	if (ret)
		cow_fs_fini(list);
	return ret;
}

void cow_fs_fini(struct cow_fs_list *list)
{
	for (unsigned i = 0; i < list->nr; i++) {
		struct cow_fs *fs = &list->fs[i];
		for (unsigned m = 0; m < fs->nr_mounts; m++) {
			free(fs->mounts[m].root);
			free(fs->mounts[m].where);
		}
		free(fs->mounts);
		if (fs->fd >= 0)
			close(fs->fd);
	}
	free(list->fs);
	cow_mntns_fini(&list->namespaces);
	cow_stack_fini(&list->stack);
	*list = (struct cow_fs_list){ .stack.sys_fd = -1,
				      .stack.dev_fd = -1,
				      .namespaces.proc_fd = -1 };
}

/* ---- opening ---- */

/*
 * The kernel gives a mount's id anew as soon as it is gone: whoever mounts something else at that
 * place between our look and the opening must not choose what is frozen. A btrfs has other numbers
 * for its files than for itself, but says which devices it is on.
 */
static bool is_of(const struct cow_fs_list *list, const struct cow_fs *fs, int fd)
{
	struct statx st;
	if (!strcmp(fs->type, "btrfs"))
		return cow_btrfs_on_fd(&list->stack, fd) >= 0;
	return !statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) &&
	       makedev(st.stx_dev_major, st.stx_dev_minor) == fs->dev;
}

enum shown {
	ON_TOP,
	COVERED, /* another is mounted over it */
};

static int open_mount(struct cow_fs_list *list, const struct cow_fs *fs,
		      const struct cow_fs_mount *m, enum shown shown)
{
	const struct cow_mount mount = {
		.id = m->id, .parent = m->parent, .dev = fs->dev, .root = m->root, .where = m->where
	};
	int fd = cow_mntns_enter(&list->namespaces, m->ns);
	if (!fd)
		fd = shown == COVERED ? cow_mount_open_covered(list->namespaces.proc_fd, &mount)
				      : cow_mount_open(list->namespaces.proc_fd, m->where, m->id);
	if (fd < 0 || is_of(list, fs, fd))
		return fd;
	close(fd);
	return -ESTALE;
}

static int open_first(struct cow_fs_list *list, const struct cow_fs *fs, enum shown shown)
{
	int fd = -ESTALE;
	for (unsigned i = 0; fd < 0 && i < fs->nr_mounts; i++) {
		int ret = open_mount(list, fs, &fs->mounts[i], shown);
		/* That another is mounted over it says less than any other reason. */
		if (ret >= 0 || fd == -ESTALE)
			fd = ret;
	}
	return fd;
}

int cow_fs_open(struct cow_fs_list *list, struct cow_fs *fs)
{
	if (fs->fd >= 0)
		return 0;
	fs->fd = open_first(list, fs, ON_TOP);
	if (fs->fd < 0)
		fs->fd = open_first(list, fs, COVERED);
	int ret = fs->fd < 0 ? fs->fd : 0;
	int back = cow_mntns_enter(&list->namespaces, 0);
	if (back && !ret)
		close(fs->fd);
	if (ret || back)
		fs->fd = -1;
	return ret ? ret : back;
}

/* ---- whether anything of it lies elsewhere ---- */

static bool lies_only_on_disk(const struct cow_fs_list *list, int idx, int depth);

/* What the kernel says that a device lies on. *nr: how many it names. */
static bool are_all_on_disk(const struct cow_fs_list *list, const char *name, int depth,
			    unsigned *nr)
{
	char path[80];
	snprintf(path, sizeof(path), "class/block/%s/slaves", name);
	DIR *d = cow_stack_open_sys(&list->stack, path);
	bool all = d;
	struct dirent *e;
	while (all && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		int idx = cow_stack_find_name(&list->stack, e->d_name);
		all = idx >= 0 && lies_only_on_disk(list, idx, depth);
		++*nr;
	}
	if (d)
		closedir(d);
	return all;
}

/* A loop device's file lies on one device, unless its file system may have several. */
static bool is_file_on_disk(const struct cow_fs_list *list, int below, int depth)
{
	for (unsigned i = 0; i < list->nr; i++)
		if (list->fs[i].on == below && cow_stack_find(&list->stack, list->fs[i].dev) < 0)
			return false;
	return lies_only_on_disk(list, below, depth);
}

static bool lies_only_on_disk(const struct cow_fs_list *list, int idx, int depth)
{
	const struct cow_stack_dev *dev = &list->stack.devs[idx];
	unsigned nr = 0;
	if (!idx)
		return true;
	if (depth == MAX_ROUNDS)
		return false;
	if (dev->partition)
		return lies_only_on_disk(list, dev->below, depth + 1);
	if (!are_all_on_disk(list, dev->name, depth + 1, &nr))
		return false;
	return nr || is_file_on_disk(list, dev->below, depth + 1);
}

bool cow_fs_lies_only_on_disk(const struct cow_fs_list *list, const struct cow_fs *fs)
{
	int idx = cow_stack_find(&list->stack, fs->dev);
	return idx >= 0 && lies_only_on_disk(list, idx, 0);
}

/* ---- words ---- */

void cow_fs_describe(const struct cow_fs_list *list, const struct cow_fs *fs, char *text,
		     size_t len)
{
	char below[256];
	const struct cow_fs_mount *m = &fs->mounts[0];
	const struct cow_mntns *ns = &list->namespaces.ns[m->ns];
	cow_stack_describe(&list->stack, fs->on, below, sizeof(below));
	size_t n = (size_t)snprintf(text, len, "%s on %s%s, mounted on %s", fs->type,
				    list->stack.devs[fs->on].path, below, m->where);
	if (n < len && m->ns && ns->pid)
		snprintf(text + n, len - n, " in the mount namespace of process %d (%s)", ns->pid,
			 ns->comm);
	else if (n < len && m->ns)
		snprintf(text + n, len - n, " in a mount namespace without processes");
}
