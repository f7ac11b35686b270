/* SPDX-License-Identifier: MIT */
/* See stack.h. */
#include "daemon/holders/stack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "engine/base/number.h"

#define CLASS_BLOCK "class/block/"

/* One line of a file below a device's folder. */
static bool read_attribute(const struct cow_stack *stack, const char *name, const char *attribute,
			   char *text, size_t len)
{
	char path[192];
	snprintf(path, sizeof(path), CLASS_BLOCK "%s/%s", name, attribute);
	int fd = openat(stack->sys_fd, path, O_RDONLY | O_CLOEXEC);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
	if (!f && fd >= 0)
		close(fd);
	if (!f)
		return false;
	bool there = fgets(text, (int)len, f);
	fclose(f);
	if (there)
		text[strcspn(text, "\n")] = '\0';
	return there;
}

/* The kernel writes a slash in a device's name as '!'. */
static void name_device(const struct cow_stack *stack, struct cow_stack_dev *dev)
{
	char dm[129];
	if (read_attribute(stack, dev->name, "dm/name", dm, sizeof(dm))) {
		snprintf(dev->path, sizeof(dev->path), "/dev/mapper/%s", dm);
		return;
	}
	snprintf(dev->path, sizeof(dev->path), "/dev/%s", dev->name);
	for (char *p = dev->path; *p; p++)
		if (*p == '!')
			*p = '/';
}

DIR *cow_stack_open_sys(const struct cow_stack *stack, const char *path)
{
	int fd = openat(stack->sys_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d && fd >= 0)
		close(fd);
	return d;
}

enum kind {
	DEVICE,
	PARTITION,
};

static int add_one(struct cow_stack *stack, const char *name, int below, enum kind kind)
{
	dev_t number;
	char text[32];
	if (strlen(name) >= sizeof(stack->devs->name) ||
	    !read_attribute(stack, name, "dev", text, sizeof(text)) ||
	    !cow_stack_parse_dev(text, &number))
		return -ENODEV;
	if (cow_stack_find(stack, number) >= 0)
		return 0;
	if (stack->nr == COW_STACK_MAX)
		return -E2BIG;
	struct cow_stack_dev *devs = realloc(stack->devs, (stack->nr + 1) * sizeof(*stack->devs));
	if (!devs)
		return -ENOMEM;
	stack->devs = devs;
	struct cow_stack_dev *dev = &devs[stack->nr++];
	*dev = (struct cow_stack_dev){ .dev = number,
				       .below = below,
				       .partition = kind == PARTITION };
	strcpy(dev->name, name);
	name_device(stack, dev);
	return 0;
}

/* What of a kind a folder of device idx lists; one that goes away meanwhile does not matter. */
static int add_listed(struct cow_stack *stack, int idx, const char *folder, enum kind kind)
{
	char path[192], attribute[300], ignored[32];
	snprintf(path, sizeof(path), CLASS_BLOCK "%s/%s", stack->devs[idx].name, folder);
	DIR *d = cow_stack_open_sys(stack, path);
	if (!d)
		return 0;
	int ret = 0;
	struct dirent *e;
	while (!ret && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(attribute, sizeof(attribute), "%s/partition", e->d_name);
		if (kind == PARTITION && !read_attribute(stack, stack->devs[idx].name, attribute,
							 ignored, sizeof(ignored)))
			continue;
		ret = add_one(stack, e->d_name, idx, kind);
		if (ret == -ENODEV)
			ret = 0;
	}
	closedir(d);
	return ret;
}

int cow_stack_add(struct cow_stack *stack, const char *name, int below)
{
	unsigned from = stack->nr;
	int ret = add_one(stack, name, below, DEVICE);
	for (unsigned i = from; !ret && i < stack->nr; i++) {
		ret = add_listed(stack, (int)i, "", PARTITION);
		if (!ret)
			ret = add_listed(stack, (int)i, "holders", DEVICE);
	}
	return ret;
}

int cow_stack_build(struct cow_stack *stack, const char *disk)
{
	const int flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
	*stack = (struct cow_stack){ .sys_fd = open("/sys", flags), .dev_fd = open("/dev", flags) };
	int ret = stack->sys_fd < 0 || stack->dev_fd < 0 ? -errno : cow_stack_add(stack, disk, -1);
	if (ret)
		cow_stack_fini(stack);
	return ret;
}

void cow_stack_fini(struct cow_stack *stack)
{
	free(stack->devs);
	if (stack->sys_fd >= 0)
		close(stack->sys_fd);
	if (stack->dev_fd >= 0)
		close(stack->dev_fd);
	*stack = (struct cow_stack){ .sys_fd = -1, .dev_fd = -1 };
}

bool cow_stack_parse_dev(const char *text, dev_t *dev)
{
	uint64_t maj, min;
	if (!cow_number_take(&text, UINT32_MAX, &maj) || *text++ != ':' ||
	    !cow_number_parse(text, UINT32_MAX, &min))
		return false;
	*dev = makedev(maj, min);
	return true;
}

int cow_stack_find(const struct cow_stack *stack, dev_t dev)
{
	for (unsigned i = 0; i < stack->nr; i++)
		if (stack->devs[i].dev == dev)
			return (int)i;
	return -1;
}

int cow_stack_find_name(const struct cow_stack *stack, const char *name)
{
	for (unsigned i = 0; i < stack->nr; i++)
		if (!strcmp(stack->devs[i].name, name))
			return (int)i;
	return -1;
}

int cow_stack_find_path(const struct cow_stack *stack, const char *path)
{
	/* Links in /dev lead to others there. */
	struct open_how how = { .flags = O_PATH | O_CLOEXEC,
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
	struct stat st;
	if (strncmp(path, "/dev/", 5))
		return -1;
	int fd = (int)syscall(SYS_openat2, stack->dev_fd, path + 5, &how, sizeof(how));
	bool block = fd >= 0 && !fstat(fd, &st) && S_ISBLK(st.st_mode);
	if (fd >= 0)
		close(fd);
	return block ? cow_stack_find(stack, st.st_rdev) : -1;
}

void cow_stack_describe(const struct cow_stack *stack, int idx, char *text, size_t len)
{
	size_t n = 0;
	text[0] = '\0';
	for (int i = idx < 0 ? -1 : stack->devs[idx].below; i >= 0 && n < len;
	     i = stack->devs[i].below)
		n += (size_t)snprintf(text + n, len - n, "%s%s", n ? ", on " : " (on ",
				      stack->devs[i].path);
	if (n && n + 1 < len)
		strcpy(text + n, ")");
}
