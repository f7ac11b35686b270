/* SPDX-License-Identifier: MIT */
/* See mounts.h: lines, namespaces, opening, in this order. */
#include "daemon/holders/mounts.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/types.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "daemon/holders/stack.h"
#include "engine/base/number.h"

/* Linux 6.12: the mount namespaces in the order of their making, whether a process is in them or not. */
struct mnt_ns_info_v0 {
	__u32 size, nr_mounts;
	__u64 mnt_ns_id;
};
#define COW_NS_MNT_GET_NEXT _IOR(0xb7, 11, struct mnt_ns_info_v0)
#define COW_NS_MNT_GET_PREV _IOR(0xb7, 12, struct mnt_ns_info_v0)
/* The kernel's PROC_PID_INIT_INO. */
#define INITIAL_PID_NS 0xEFFFFFFCu
/* A system with more is not looked through to the end. */
#define MAX_NAMESPACES 65536u

/* ---- lines ---- */

/* The kernel writes blanks and backslashes as \ooo. */
static char *unescape(char *text)
{
	char *to = text;
	for (const char *p = text; *p; to++) {
		if (p[0] == '\\' && isdigit((unsigned char)p[1]) && isdigit((unsigned char)p[2]) &&
		    isdigit((unsigned char)p[3])) {
			*to = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
			p += 4;
		} else {
			*to = *p++;
		}
	}
	*to = '\0';
	return text;
}

static bool parse_id(const char *text, int *id)
{
	uint64_t value;
	if (!cow_number_parse(text, INT_MAX, &value))
		return false;
	*id = (int)value;
	return true;
}

/* ID PARENT MAJ:MIN ROOT MOUNTPOINT OPTIONS [FIELDS] - TYPE SOURCE SUPER */
/* Takes the line apart, in place. False: not a line of mountinfo. */
static bool parse(char *line, struct cow_mount *mount)
{
	char *save, *word[6];
	line[strcspn(line, "\n")] = '\0';
	char *rest = strstr(line, " - ");
	if (!rest)
		return false;
	*rest = '\0';
	rest += 3;
	for (int i = 0; i < 6; i++) {
		word[i] = strtok_r(i ? NULL : line, " ", &save);
		if (!word[i])
			return false;
	}
	if (!parse_id(word[0], &mount->id) || !parse_id(word[1], &mount->parent) ||
	    !cow_stack_parse_dev(word[2], &mount->dev))
		return false;
	mount->root = unescape(word[3]);
	mount->where = unescape(word[4]);
	/* A source may be empty. */
	char *type = strsep(&rest, " "), *source = strsep(&rest, " ");
	mount->type = type;
	mount->source = source ? unescape(source) : "";
	mount->super = rest ? rest : "";
	return true;
}

/* ---- namespaces ---- */

static bool knows(const struct cow_mntns_list *list, ino_t ino)
{
	for (unsigned i = 0; i < list->nr; i++)
		if (list->ns[i].ino == ino)
			return true;
	return false;
}

/* Takes over fd. */
static int add_namespace(struct cow_mntns_list *list, ino_t ino, int fd, pid_t pid)
{
	struct cow_mntns *ns = NULL;
	if (list->nr < MAX_NAMESPACES)
		ns = realloc(list->ns, (list->nr + 1) * sizeof(*ns));
	if (!ns) {
		if (fd >= 0)
			close(fd);
		return list->nr < MAX_NAMESPACES ? -ENOMEM : 0;
	}
	list->ns = ns;
	ns = &list->ns[list->nr++];
	*ns = (struct cow_mntns){ .ino = ino, .fd = fd, .pid = pid };
	return 0;
}

static void read_comm(const struct cow_mntns_list *list, struct cow_mntns *ns)
{
	char path[40];
	snprintf(path, sizeof(path), "%d/comm", ns->pid);
	int fd = openat(list->proc_fd, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, ns->comm, sizeof(ns->comm) - 1);
	ns->comm[n > 0 ? n : 0] = '\0';
	ns->comm[strcspn(ns->comm, "\n")] = '\0';
	if (fd >= 0)
		close(fd);
}

static int add_of_process(struct cow_mntns_list *list, const char *pid)
{
	char path[64];
	struct stat st;
	int id;
	snprintf(path, sizeof(path), "%.20s/ns/mnt", pid);
	if (!parse_id(pid, &id))
		return 0;
	if (fstatat(list->proc_fd, path, &st, 0)) {
		list->blind |= errno == EACCES || errno == EPERM;
		return 0;
	}
	if (knows(list, st.st_ino))
		return 0;
	int ret = add_namespace(list, st.st_ino, openat(list->proc_fd, path, O_RDONLY | O_CLOEXEC),
				id);
	if (!ret)
		read_comm(list, &list->ns[list->nr - 1]);
	return ret;
}

static int add_of_processes(struct cow_mntns_list *list)
{
	int fd = openat(list->proc_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return -errno;
	struct dirent *e;
	while (!ret && (e = readdir(d)))
		ret = add_of_process(list, e->d_name);
	closedir(d);
	return ret;
}

/* Those that only a mount or a descriptor keeps; older kernels do not tell of them. */
static int add_nameless(struct cow_mntns_list *list, unsigned long direction)
{
	int at = openat(list->proc_fd, "self/ns/mnt", O_RDONLY | O_CLOEXEC), ret = 0;
	for (unsigned n = 0; at >= 0 && !ret && n < MAX_NAMESPACES; n++) {
		struct mnt_ns_info_v0 info = { .size = sizeof(info) };
		struct stat st;
		int next = ioctl(at, direction, &info);
		close(at);
		at = next;
		if (at >= 0 && !fstat(at, &st) && !knows(list, st.st_ino))
			ret = add_namespace(list, st.st_ino, fcntl(at, F_DUPFD_CLOEXEC, 0), 0);
	}
	if (at >= 0)
		close(at);
	return ret;
}

/* In a process namespace of its own others' processes are not seen, nor are their mounts. */
static bool sees_all_processes(const struct cow_mntns_list *list)
{
	struct stat st;
	if (fstatat(list->proc_fd, "self/ns/pid", &st, 0))
		return errno == ENOENT; /* this kernel has one for all */
	return st.st_ino == INITIAL_PID_NS;
}

int cow_mntns_collect(struct cow_mntns_list *list, enum cow_mntns_scope scope)
{
	struct stat st;
	struct rlimit files;
	*list = (struct cow_mntns_list){ .proc_fd = -1 };
	list->proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (list->proc_fd < 0)
		return -errno;
	int ret = fstatat(list->proc_fd, "self/ns/mnt", &st, 0) ? -errno : 0;
	if (!ret)
		ret = add_namespace(list, st.st_ino, -1, 0);
	if (!ret && scope == COW_MNTNS_ALL) {
		if (!getrlimit(RLIMIT_NOFILE, &files)) {
			files.rlim_cur = files.rlim_max;
			setrlimit(RLIMIT_NOFILE, &files);
		}
		list->ns[0].fd = openat(list->proc_fd, "self/ns/mnt", O_RDONLY | O_CLOEXEC);
		list->blind = list->ns[0].fd < 0 || setns(list->ns[0].fd, CLONE_NEWNS) ||
			      !sees_all_processes(list);
		ret = add_of_processes(list);
		if (!ret)
			ret = add_nameless(list, COW_NS_MNT_GET_NEXT);
		if (!ret)
			ret = add_nameless(list, COW_NS_MNT_GET_PREV);
	}
	if (ret)
		cow_mntns_fini(list);
	return ret;
}

void cow_mntns_fini(struct cow_mntns_list *list)
{
	for (unsigned i = 0; i < list->nr; i++)
		if (list->ns[i].fd >= 0)
			close(list->ns[i].fd);
	if (list->proc_fd >= 0)
		close(list->proc_fd);
	free(list->ns);
	*list = (struct cow_mntns_list){ .proc_fd = -1 };
}

int cow_mntns_enter(const struct cow_mntns_list *list, unsigned idx)
{
	int ret = list->ns[idx].fd < 0 ? -EPERM : 0;
	if (!ret && setns(list->ns[idx].fd, CLONE_NEWNS))
		ret = -errno;
	/* A caller that may enter none has never left its own. */
	return ret == -EPERM && !idx ? 0 : ret;
}

static int each_line(FILE *f, unsigned idx,
		     int (*each)(void *ctx, unsigned idx, const struct cow_mount *mount), void *ctx)
{
	char *line = NULL;
	size_t size = 0;
	int ret = 0;
	struct cow_mount mount;
	while (!ret && getline(&line, &size, f) > 0)
		if (parse(line, &mount))
			ret = each(ctx, idx, &mount);
	free(line);
	fclose(f);
	return ret;
}

static FILE *open_list(int proc_fd, const char *path)
{
	int fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
	if (!f && fd >= 0)
		close(fd);
	return f;
}

int cow_mounts_each(const struct cow_mntns_list *list, unsigned idx,
		    int (*each)(void *ctx, unsigned idx, const struct cow_mount *mount), void *ctx)
{
	char path[40] = "self/mountinfo";
	if (cow_mntns_enter(list, idx))
		snprintf(path, sizeof(path), "%d/mountinfo", list->ns[idx].pid);
	FILE *f = open_list(list->proc_fd, path);
	return f ? each_line(f, idx, each, ctx) : -errno;
}

/* ---- opening ---- */

int cow_mount_open(int proc_fd, const char *where, int id)
{
	struct statx st;
	char path[40];
	int at = open(where, O_PATH | O_NOFOLLOW | O_CLOEXEC), ret = 0;
	if (at < 0)
		return -errno;
	/* Of what the kernel knows: whoever serves a file system (FUSE) is not asked. */
	if (statx(at, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_MNT_ID, &st))
		ret = -errno;
	else if (!(st.stx_mask & STATX_MNT_ID) || st.stx_mnt_id != (uint64_t)id)
		ret = -ESTALE;
	else if (!S_ISDIR(st.stx_mode) && !S_ISREG(st.stx_mode))
		ret = -ENOTSUP;
	if (!ret) {
		snprintf(path, sizeof(path), "self/fd/%d", at);
		ret = openat(proc_fd, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (ret < 0)
			ret = -errno;
	}
	close(at);
	return ret;
}

/* A copy of a line, to be kept. */
struct kept {
	int id, parent;
	dev_t dev;
	char *root, *where;
};

struct copy {
	struct kept *list;
	unsigned nr;
};

static int keep(void *ctx, unsigned idx, const struct cow_mount *mount)
{
	struct copy *copy = ctx;
	struct kept *list = realloc(copy->list, (copy->nr + 1) * sizeof(*list));
	if (!list)
		return -ENOMEM;
	copy->list = list;
	struct kept *k = &list[copy->nr];
	*k = (struct kept){ mount->id, mount->parent, mount->dev, strdup(mount->root),
			    strdup(mount->where) };
	if (!k->root || !k->where) {
		free(k->root);
		free(k->where);
		return -ENOMEM;
	}
	copy->nr++;
	return 0;
}

static void free_copy(struct copy *copy)
{
	for (unsigned i = 0; i < copy->nr; i++) {
		free(copy->list[i].root);
		free(copy->list[i].where);
	}
	free(copy->list);
}

static const struct kept *find_kept(const struct copy *copy, int id)
{
	for (unsigned i = 0; i < copy->nr; i++)
		if (copy->list[i].id == id)
			return &copy->list[i];
	return NULL;
}

static bool is_above(const struct copy *copy, const struct kept *k, int id)
{
	for (unsigned n = 0; k && n <= copy->nr; n++) {
		if (k->id == id)
			return true;
		k = k->parent == k->id ? NULL : find_kept(copy, k->parent);
	}
	return false;
}

static bool is_on_the_way(const char *where, const char *to)
{
	size_t n = strlen(where);
	return !strncmp(where, to, n) && (!to[n] || to[n] == '/' || where[n - 1] == '/');
}

/* What is in the way is taken away, here in the copy only: the newest first. */
static int uncover(int proc_fd, const struct copy *copy, const struct kept *wanted)
{
	for (unsigned i = copy->nr; i-- > 0;) {
		const struct kept *k = &copy->list[i];
		if (!is_above(copy, wanted, k->id) && is_on_the_way(k->where, wanted->where))
			umount2(k->where, MNT_DETACH | UMOUNT_NOFOLLOW);
	}
	return cow_mount_open(proc_fd, wanted->where, wanted->id);
}

int cow_mount_open_covered(int proc_fd, const struct cow_mount *wanted)
{
	struct copy copy = { 0 };
	if (unshare(CLONE_NEWNS) || mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -errno;
	FILE *f = open_list(proc_fd, "self/mountinfo");
	int ret = f ? each_line(f, 0, keep, &copy) : -errno, fd = -ESTALE;
	for (unsigned i = 0; !ret && fd < 0 && i < copy.nr; i++) {
		const struct kept *k = &copy.list[i];
		if (k->dev == wanted->dev && !strcmp(k->root, wanted->root) &&
		    !strcmp(k->where, wanted->where))
			fd = uncover(proc_fd, &copy, k);
	}
	free_copy(&copy);
	return ret ? ret : fd;
}
