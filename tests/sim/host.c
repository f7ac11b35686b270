/* SPDX-License-Identifier: MIT */
/* The simulated host's name space: flat absolute paths, locks as counts. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "tests/sim/world.h"

struct sim_handle {
	struct cow_file base; /* first */
	struct sim_file *file;
	bool locked;
};

struct sim_file *sim_file_of(const struct cow_file *file)
{
	return ((const struct sim_handle *)file)->file;
}

static int lock(struct sim_handle *h, unsigned flags)
{
	struct sim_file *f = h->file;
	if (flags & COW_OPEN_NO_LOCK)
		return 0;
	if (f->writers || (h->base.writable && f->readers))
		return -EBUSY;
	if (h->base.writable)
		f->writers++;
	else
		f->readers++;
	h->locked = true;
	return 0;
}

static int find_or_create(struct sim_world *world, const char *path, unsigned flags,
			  struct sim_file **out)
{
	*out = sim_disk_find(&world->disk, path);
	if (!*out && !(flags & COW_OPEN_CREATE))
		return -ENOENT;
	if (*out && (flags & COW_OPEN_CREATE) && !(flags & COW_OPEN_TRUNCATE) && !(*out)->fixed)
		return -EEXIST;
	if (!*out)
		*out = sim_disk_create(&world->disk, path);
	return 0;
}

static int host_open(struct cow_host *host, const char *path, unsigned flags, struct cow_file **out,
		     struct cow_error *err)
{
	struct sim_world *world = (struct sim_world *)host;
	struct sim_file *file;
	int ret = find_or_create(world, path, flags, &file);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot open: %s", path, strerror(-ret));
	struct sim_handle *h = calloc(1, sizeof(*h));
	cow_assert(h);
	h->file = file;
	h->base.writable = flags & (COW_OPEN_WRITE | COW_OPEN_CREATE);
	ret = lock(h, flags);
	if (ret) {
		free(h);
		return cow_error_set(err, ret, "%s: image is in use by the simulator", path);
	}
	if ((flags & COW_OPEN_TRUNCATE) && file->now.size_bytes && !file->fixed)
		sim_file_resize(file, 0, NULL);
	h->base.host = host;
	h->base.path = strdup(path);
	h->base.dev = 1;
	h->base.ino = file->ino;
	h->base.size_bytes = file->now.size_bytes;
	h->base.direct = !(flags & COW_OPEN_BUFFERED);
	h->base.can_punch = h->base.writable;
	h->base.block_device = file->fixed;
	*out = &h->base;
	return 0;
}

static void host_close(struct cow_file *base)
{
	struct sim_handle *h = (struct sim_handle *)base;
	if (!h)
		return;
	if (h->locked && base->writable)
		h->file->writers--;
	else if (h->locked)
		h->file->readers--;
	free(base->path);
	free(h);
}

static int host_realpath(struct cow_host *host, const char *path, char **out)
{
	struct sim_world *world = (struct sim_world *)host;
	char full[512];
	if (path[0] != '/')
		cow_assert((size_t)snprintf(full, sizeof(full), "/%s", path) < sizeof(full));
	else
		cow_assert((size_t)snprintf(full, sizeof(full), "%s", path) < sizeof(full));
	size_t len = strlen(full);
	bool dir = !strcmp(full, "/") || !strcmp(full, "/sim");
	if (!dir && len > 1 && full[len - 1] == '/')
		full[len - 1] = '\0';
	if (!dir && !sim_disk_find(&world->disk, full))
		return -ENOENT;
	*out = strdup(full);
	return *out ? 0 : -ENOMEM;
}

static bool host_length(struct cow_file *file, uint64_t *bytes)
{
	*bytes = sim_file_of(file)->now.size_bytes;
	return true;
}

/* ---- for the tools of whole disks ---- */

static int host_keep(struct cow_file *base, struct cow_file **out, struct cow_error *err)
{
	struct sim_handle *h = (struct sim_handle *)base, *next = calloc(1, sizeof(*next));
	cow_assert(next);
	*next = *h;
	next->base.path = strdup(base->path);
	next->base.size_bytes = h->file->now.size_bytes;
	next->base.unlocked = true;
	h->locked = false;
	*out = &next->base;
	return 0;
}

static bool host_look(struct cow_file *base, uint64_t off, bool *hole, uint64_t *end)
{
	const struct sim_file *f = sim_file_of(base);
	*hole = !f->fixed && sim_store_look(&f->now, off, f->now.size_bytes, end);
	return !f->fixed;
}

const struct cow_host_ops sim_host_ops = {
	.open = host_open,
	.close = host_close,
	.realpath = host_realpath,
	.length = host_length,
	.keep = host_keep,
	.look = host_look,
};
