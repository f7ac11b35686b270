/* SPDX-License-Identifier: MIT */
/*
 * See convert_target.h. In this order: names; what is there already; a new file; a device;
 * opening; the end.
 */
#include "engine/tool/convert_target.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/base/buf.h"
#include "engine/format/reference.h"
#include "engine/host/system.h"
#include "engine/image/state.h"
#include "engine/loop/blocking.h"
#include "engine/tool/disk_state.h"
#include "engine/tool/measure.h"

/* Of each queue: what is left of it in the end is a hole in the file. */
#define RESERVE_BYTES (2u << 20)

/* ---- names ---- */

/* path: with links resolved where it exists, so that a rename replaces what they lead to. */
static int find_path(struct cow_target *t, struct cow_error *err)
{
	const char *path = t->spec->disk.path;
	struct stat st;
	int ret = t->host->ops->realpath(t->host, path, &t->path);
	t->existed = !ret;
	if (ret == -ENOENT && !lstat(path, &st))
		return cow_error_set(err, ret,
				     "%s: a symbolic link leads to what is not there: give that "
				     "name itself",
				     path);
	if (ret == -ENOENT) {
		t->path = strdup(path);
		ret = t->path ? 0 : -ENOMEM;
	}
	return ret ? cow_error_set(err, ret, "%s: %s", path, strerror(-ret)) : 0;
}

static char *temporary_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	uint64_t random = 0;
	char *name;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		random = (uint64_t)getpid();
	int n = asprintf(&name, "%.*s.cowblk-%016" PRIx64, slash ? (int)(slash - path) + 1 : 0,
			 path, random);
	return n < 0 ? NULL : name;
}

/* ---- what is there already ---- */

/* Also of a file that is replaced: whoever uses it would go on with the old one and not know. */
static int open_old(struct cow_target *t, struct cow_error *err)
{
	const struct cow_target_spec *spec = t->spec;
	if (!t->existed)
		return 0;
	int ret = t->host->ops->open(t->host, spec->disk.path, COW_OPEN_WRITE | COW_OPEN_BUFFERED,
				     &t->old, err);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot open: %s", spec->disk.path,
				     strerror(-ret));
	t->device = t->old->block_device;
	return 0;
}

static void close_old(struct cow_target *t)
{
	if (t->old)
		t->host->ops->close(t->old);
	t->old = NULL;
}

/* As far as that is ours to give. */
static int take_permissions(struct cow_target *t, struct cow_file *file)
{
	struct stat st;
	if (!t->old)
		return 0;
	if (fstat(cow_host_fd(t->old), &st))
		return -errno;
	if (fchown(cow_host_fd(file), st.st_uid, st.st_gid) && errno != EPERM)
		return -errno;
	return fchmod(cow_host_fd(file), st.st_mode & 07777) ? -errno : 0;
}

/* ---- a new file ---- */

static int set_raw_length(struct cow_loop *loop, const struct cow_create_options *o,
			  struct cow_file *file)
{
	int ret = cow_loop_resize(loop, file, o->size_bytes);
	bool now = o->preallocation == COW_PREALLOC_FALLOC || o->preallocation == COW_PREALLOC_FULL;
	if (!ret && now && o->size_bytes &&
	    fallocate(cow_host_fd(file), 0, 0, (off_t)o->size_bytes))
		ret = -errno;
	return ret;
}

/* The file is made and closed again: until it has its name nobody else looks for it. */
static int make_temporary(struct cow_target *t, struct cow_loop *loop, struct cow_error *err)
{
	const struct cow_target_spec *spec = t->spec;
	struct cow_create_options create = spec->create;
	struct cow_file *file;
	t->temporary = temporary_name(t->path);
	if (!t->temporary)
		return cow_error_no_memory(err);
	int ret = t->host->ops->open(t->host, t->temporary, COW_OPEN_CREATE | COW_OPEN_BUFFERED,
				     &file, err);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot create: %s", spec->disk.path,
				     strerror(-ret));
	ret = take_permissions(t, file);
	if (ret)
		cow_error_set(err, ret, "%s: cannot set its permissions: %s", spec->disk.path,
			      strerror(-ret));
	create.into = file;
	if (!ret && spec->disk.format == COW_DISK_QCOW2)
		ret = cow_create(t->host, loop, t->temporary, &create, err);
	else if (!ret)
		ret = set_raw_length(loop, &create, file);
	if (ret) {
		cow_error_set(err, ret, "%s: cannot be made: %s", spec->disk.path, strerror(-ret));
		cow_system_remove(file);
		return ret;
	}
	t->host->ops->close(file);
	return 0;
}

/* ---- a device ---- */

/* Could all threads set something aside, and the image still become as large as it can? */
static bool is_tight(const struct cow_target *t)
{
	struct cow_measure m = { .format = COW_DISK_QCOW2, .create = &t->spec->create };
	uint64_t spare = (uint64_t)RESERVE_BYTES * COW_WALK_MAX_THREADS;
	struct cow_error ignored = { 0 };
	return cow_measure(&m, &ignored) || t->old->size_bytes < m.fully_allocated + spare;
}

static int make_on_device(struct cow_target *t, struct cow_loop *loop, struct cow_error *err)
{
	const struct cow_target_spec *spec = t->spec;
	struct cow_create_options create = spec->create;
	cow_assert(t->device && !t->temporary);
	create.overwrite = true;
	t->tight = spec->disk.format == COW_DISK_QCOW2 && is_tight(t);
	close_old(t); /* or we would be in our own way */
	return spec->disk.format == COW_DISK_QCOW2
		       ? cow_create(t->host, loop, spec->disk.path, &create, err)
		       : 0;
}

/* ---- opening ---- */

static int check_size(struct cow_target *t, struct cow_error *err)
{
	uint64_t wanted = t->spec->create.size_bytes, there = cow_disk_bytes(t->disk);
	if (there >= wanted)
		return 0;
	return cow_error_set(err, -ENOSPC,
			     "%s: has %" PRIu64 " bytes, %" PRIu64 " are needed: it is too small",
			     t->spec->disk.path, there, wanted);
}

static int check_bitmaps(struct cow_target *t, struct cow_loop *loop, struct cow_error *err)
{
	int ret = cow_bitmap_copy_check(t->spec->bitmaps, loop, t->disk, err);
	if (ret)
		cow_error_prefix(err, "%s", t->spec->disk.path);
	return ret;
}

static int open_disk(struct cow_target *t, struct cow_loop *loop, struct cow_error *err)
{
	struct cow_disk_spec disk = t->spec->disk;
	const char *data = t->spec->create.data_file;
	char *data_path = NULL;
	disk.open.writable = true;
	disk.open.reserve_bytes = RESERVE_BYTES;
	if (t->temporary)
		disk.path = t->temporary;
	if (data && !t->spec->in_place) {
		data_path = cow_reference_resolve(t->path, data);
		disk.open.data_file = data_path;
		disk.open.data_is_raw = true;
		if (!data_path)
			return cow_error_no_memory(err);
	}
	int ret = cow_disk_open(t->host, loop, &disk, &t->disk, err);
	t->opened = !ret;
	free(data_path);
	return ret;
}

static int make(struct cow_target *t, struct cow_loop *loop, struct cow_error *err)
{
	const struct cow_target_spec *spec = t->spec;
	if (spec->in_place && !t->existed)
		return cow_error_set(err, -ENOENT, "%s: does not exist: leave out -n",
				     spec->disk.path);
	if (spec->in_place) {
		close_old(t);
		return 0;
	}
	t->reads_zero = !t->device || spec->disk.format == COW_DISK_QCOW2;
	return t->device ? make_on_device(t, loop, err) : make_temporary(t, loop, err);
}

/* By the name that the user knows. */
static void tell_of_target(const struct cow_target *t, struct cow_error *err)
{
	size_t n = t->temporary ? strlen(t->temporary) : 0;
	struct cow_error told = { 0 };
	if (!n || strncmp(err->text, t->temporary, n))
		return;
	cow_error_set(&told, err->code, "%s%s", t->spec->disk.path, err->text + n);
	*err = told;
}

int cow_target_open(struct cow_loop *loop, const struct cow_target_spec *spec, struct cow_target *t,
		    struct cow_error *err)
{
	*t = (struct cow_target){ .spec = spec, .host = cow_host_system() };
	int ret = find_path(t, err);
	if (!ret)
		ret = open_old(t, err);
	bool made = false;
	if (!ret) {
		ret = make(t, loop, err);
		made = !ret;
	}
	if (!ret)
		ret = open_disk(t, loop, err);
	if (!ret)
		ret = check_size(t, err);
	if (!ret && spec->bitmaps)
		ret = check_bitmaps(t, loop, err);
	if (!ret) {
		cow_disk_keep_quiet(t->disk);
		return 0;
	}
	tell_of_target(t, err);
	if (!made) {
		free(t->temporary);
		t->temporary = NULL;
	}
	cow_target_give_up(t, loop);
	return ret;
}

/* ---- the end ---- */

static void free_target(struct cow_target *t)
{
	close_old(t);
	free(t->path);
	free(t->temporary);
	*t = (struct cow_target){ 0 };
}

/* Nobody shall take half an image for one. */
static void wipe_header(struct cow_target *t, struct cow_loop *loop)
{
	struct cow_file *file;
	uint8_t *zeros = cow_buf_alloc(4096);
	if (zeros && !t->host->ops->open(t->host, t->spec->disk.path,
					 COW_OPEN_WRITE | COW_OPEN_BUFFERED, &file, NULL)) {
		if (!cow_loop_write(loop, file, 0, zeros, 4096))
			COW_IGNORE(cow_loop_sync(loop, file));
		t->host->ops->close(file);
	}
	free(zeros);
}

static void remove_data_file(struct cow_target *t)
{
	const char *data = t->spec->create.data_file;
	char *path = data ? cow_reference_resolve(t->path, data) : NULL;
	if (path)
		unlink(path);
	free(path);
}

void cow_target_give_up(struct cow_target *t, struct cow_loop *loop)
{
	COW_IGNORE(cow_disk_close(t->disk, loop, NULL));
	if (t->temporary) {
		unlink(t->temporary);
		remove_data_file(t);
	} else if (t->opened && t->device && !t->spec->in_place &&
		   t->spec->disk.format == COW_DISK_QCOW2) {
		wipe_header(t, loop);
	}
	free_target(t);
}

static int sync_folder(const char *path)
{
	char *copy = strdup(path);
	int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int ret = fd < 0 || (fsync(fd) && errno != EINVAL) ? -errno : 0;
	if (fd >= 0)
		close(fd);
	free(copy);
	return ret;
}

static int give_name(struct cow_target *t, struct cow_error *err)
{
	cow_assert(t->temporary && !t->disk); /* closed, so it is durable */
	/* A name that was free and is taken by now is somebody else's. */
	unsigned flags = t->existed ? 0 : RENAME_NOREPLACE;
	int ret = renameat2(AT_FDCWD, t->temporary, AT_FDCWD, t->path, flags) ? -errno : 0;
	if (ret == -EINVAL && flags) /* a file system that does not know the flag */
		ret = rename(t->temporary, t->path) ? -errno : 0;
	if (ret)
		return cow_error_set(err, ret, "%s: cannot get its name: %s", t->spec->disk.path,
				     strerror(-ret));
	free(t->temporary);
	t->temporary = NULL;
	ret = t->spec->unsafe ? 0 : sync_folder(t->path);
	return ret ? cow_error_set(err, ret, "%s: its folder cannot be synced: %s",
				   t->spec->disk.path, strerror(-ret))
		   : 0;
}

/* The raw file's own sync can be spared, that of an image cannot: its order of writing needs it. */
static int close_disk(struct cow_target *t, struct cow_loop *loop, struct cow_error *err)
{
	struct cow_disk *disk = t->disk;
	if (disk->file && t->spec->unsafe)
		disk->file->writable = false;
	t->disk = NULL;
	return cow_disk_close(disk, loop, err);
}

/* Nobody else has the image between its content and its bitmaps. */
static int close_with_bitmaps(struct cow_target *t, struct cow_loop *loop, struct cow_error *err)
{
	struct cow_disk *disk = t->disk;
	struct cow_file *file;
	struct cow_error own = { 0 };
	t->disk = NULL;
	int ret = cow_disk_close_keep(disk, loop, &file, &own);
	if (!ret) {
		ret = cow_bitmap_copy_run(t->spec->bitmaps, loop, file, &own);
		t->host->ops->close(file);
		if (ret)
			cow_error_prefix(&own, "%s", t->spec->disk.path);
	}
	return ret ? cow_error_set(err, ret, "%s", own.code ? own.text : strerror(-ret)) : 0;
}

int cow_target_finish(struct cow_target *t, struct cow_loop *loop, struct cow_error *err)
{
	bool bitmaps = t->spec->bitmaps && t->spec->bitmaps->nr;
	int ret = bitmaps ? close_with_bitmaps(t, loop, err) : close_disk(t, loop, err);
	if (!ret && t->temporary)
		ret = give_name(t, err);
	if (ret)
		cow_target_give_up(t, loop);
	else
		free_target(t);
	return ret;
}
