/* SPDX-License-Identifier: MIT */
#include "daemon/device/temporary.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/create/create.h"
#include "engine/host/system.h"

static const char *folder(void)
{
	const char *dir = getenv("TMPDIR");
	return dir && dir[0] == '/' ? dir : "/var/tmp";
}

/* For file systems that cannot make a file without a name: it has one for a moment. */
static int make_named(const char *dir)
{
	char path[512];
	if ((size_t)snprintf(path, sizeof(path), "%s/cowblk-XXXXXX", dir) >= sizeof(path))
		return -ENAMETOOLONG;
	int fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	unlink(path);
	return fd;
}

/* An empty file that nobody else can open: it is known by its descriptor only. */
static int make_file(struct cow_error *err)
{
	const char *dir = folder();
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		fd = errno == EOPNOTSUPP || errno == EISDIR ? make_named(dir) : -errno;
	if (fd < 0)
		cow_error_set(err, fd, "%s: cannot make the temporary overlay: %s: set TMPDIR", dir,
			      strerror(-fd));
	return fd;
}

/* Takes a descriptor of its own, so that the file may be closed afterwards. */
static int fill(struct cow_loop *loop, int fd, const char *name, const char *path,
		struct cow_error *err)
{
	struct cow_create_options create = { .backing_file = path, .backing_format = "qcow2" };
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0)
		return cow_error_set(err, -errno, "%s: %s", name, strerror(errno));
	int ret =
		cow_system_adopt(copy, name, COW_OPEN_WRITE | COW_OPEN_BUFFERED, &create.into, err);
	if (ret)
		return ret;
	ret = cow_create(cow_host_system(), loop, name, &create, err);
	cow_host_system()->ops->close(create.into);
	return ret;
}

int cow_temporary_open(struct cow_loop *loop, const char *path,
		       const struct cow_open_options *options, struct cow_image **out,
		       struct cow_error *err)
{
	struct cow_open_options over = *options;
	unsigned flags = COW_OPEN_WRITE | (options->buffered ? COW_OPEN_BUFFERED : 0);
	char name[512];
	int fd = make_file(err);
	if (fd < 0)
		return fd;
	snprintf(name, sizeof(name), "temporary overlay in %s", folder());
	int ret = fill(loop, fd, name, path, err);
	if (ret) {
		close(fd);
		return ret;
	}
	ret = cow_system_adopt(fd, name, flags, &over.overlay, err);
	over.writable = true;
	return ret ? ret : cow_image_open(cow_host_system(), loop, path, &over, out, err);
}
