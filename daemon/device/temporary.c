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

#define MAX_ROOTS 256

static int make_file(char *path, size_t len, struct cow_error *err)
{
	const char *dir = getenv("TMPDIR");
	snprintf(path, len, "%s/cowblk-XXXXXX", dir && dir[0] == '/' ? dir : "/var/tmp");
	int fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return cow_error_set(err, -errno,
				     "%s: cannot make the temporary overlay: %s: set TMPDIR", path,
				     strerror(errno));
	close(fd);
	return 0;
}

/* The image's directory is allowed, as it is without the overlay. */
static int open_overlay(struct cow_loop *loop, const char *overlay, const char *path,
			const struct cow_open_options *options, struct cow_image **out,
			struct cow_error *err)
{
	const char *roots[MAX_ROOTS];
	struct cow_open_options o = *options;
	char *dir = strdup(path);
	if (!dir || o.nr_backing_roots + 1 > MAX_ROOTS) {
		free(dir);
		return -ENOMEM;
	}
	char *slash = strrchr(dir, '/');
	slash[slash == dir] = '\0';
	for (size_t i = 0; i < o.nr_backing_roots; i++)
		roots[i] = o.backing_roots[i];
	roots[o.nr_backing_roots++] = dir;
	o.backing_roots = roots;
	o.writable = true;
	int ret = cow_image_open(cow_host_system(), loop, overlay, &o, out, err);
	free(dir);
	return ret;
}

int cow_temporary_open(struct cow_loop *loop, const char *path,
		       const struct cow_open_options *options, struct cow_image **out,
		       struct cow_error *err)
{
	char overlay[512];
	int ret = make_file(overlay, sizeof(overlay), err);
	if (ret)
		return ret;
	const struct cow_create_options create = {
		.backing_file = path,
		.backing_format = "qcow2",
		.overwrite = true,
	};
	ret = cow_create(cow_host_system(), loop, overlay, &create, err);
	if (!ret)
		ret = open_overlay(loop, overlay, path, options, out, err);
	unlink(overlay);
	return ret;
}
