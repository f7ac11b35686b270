/* SPDX-License-Identifier: MIT */
/* See disk.h: a disk of whichever format, as a whole. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/math.h"
#include "engine/image/state.h"
#include "engine/loop/blocking.h"
#include "engine/tool/disk_state.h"

/* ---- raw ---- */

static int open_raw(struct cow_disk *disk, struct cow_host *host, const struct cow_disk_spec *spec,
		    struct cow_error *err)
{
	const struct cow_open_options *o = &spec->open;
	unsigned flags = (o->writable ? COW_OPEN_WRITE : 0) | (o->no_lock ? COW_OPEN_NO_LOCK : 0) |
			 (o->buffered ? COW_OPEN_BUFFERED : 0);
	int ret = host->ops->open(host, spec->path, flags, &disk->file, err);
	return ret ? cow_error_set(err, ret, "%s: cannot open: %s", spec->path, strerror(-ret)) : 0;
}

/* ---- qcow2 ---- */

/*
 * With preallocated metadata all clusters are in use and few of them on the host. QEMU takes an image
 * for one of those by the same measure, counting refcounts where we take the length of the file.
 */
static bool looks_preallocated(struct cow_file *file, uint32_t cluster_bytes)
{
	const struct cow_host_ops *ops = file->host->ops;
	uint64_t stored;
	if (file->block_device || !ops->stored || !ops->stored(file, &stored))
		return false;
	uint64_t on_host = stored / cluster_bytes;
	uint64_t clusters = (file->size_bytes + cluster_bytes - 1) / cluster_bytes;
	return clusters >= cow_max(on_host * 10 / 9, on_host + 2);
}

static int open_qcow2(struct cow_disk *disk, struct cow_host *host, struct cow_loop *loop,
		      const struct cow_disk_spec *spec, struct cow_error *err)
{
	int ret = cow_image_open(host, loop, spec->path, &spec->open, &disk->image, err);
	if (ret)
		return ret;
	for (struct cow_image *level = disk->image; level; level = level->backing)
		if (!level->raw)
			disk->preallocated[level->depth] = looks_preallocated(
				level->core.file, cow_image_geometry(level)->cluster_bytes);
	return 0;
}

/* ---- both ---- */

int cow_disk_open(struct cow_host *host, struct cow_loop *loop, const struct cow_disk_spec *spec,
		  struct cow_disk **out, struct cow_error *err)
{
	struct cow_disk *disk = calloc(1, sizeof(*disk));
	if (disk)
		disk->path = strdup(spec->path);
	if (!disk || !disk->path) {
		free(disk);
		return cow_error_no_memory(err);
	}
	int ret = spec->format == COW_DISK_RAW ? open_raw(disk, host, spec, err)
					       : open_qcow2(disk, host, loop, spec, err);
	if (ret) {
		free(disk->path);
		free(disk);
		return ret;
	}
	*out = disk;
	return 0;
}

static int close_raw(struct cow_disk *disk, struct cow_loop *loop, struct cow_error *err)
{
	int ret = disk->file->writable ? cow_loop_sync(loop, disk->file) : 0;
	disk->file->host->ops->close(disk->file);
	return ret ? cow_error_set(err, ret, "%s: cannot write: %s", disk->path, strerror(-ret))
		   : 0;
}

int cow_disk_close(struct cow_disk *disk, struct cow_loop *loop, struct cow_error *err)
{
	if (!disk)
		return 0;
	int ret =
		disk->image ? cow_image_close(disk->image, loop, err) : close_raw(disk, loop, err);
	free(disk->path);
	free(disk);
	return ret;
}

/* Closing has cut off what was reserved: what is behind the end now was never written. */
static void note_length(struct cow_file *file)
{
	uint64_t bytes;
	if (file->host->ops->length && file->host->ops->length(file, &bytes))
		file->size_bytes = bytes;
}

int cow_disk_close_keep(struct cow_disk *disk, struct cow_loop *loop, struct cow_file **file,
			struct cow_error *err)
{
	struct cow_file *held = disk->image ? disk->image->core.file : disk->file;
	int (*keep)(struct cow_file *, struct cow_file **, struct cow_error *) =
		held->host->ops->keep;
	int kept = keep ? keep(held, file, err) : -ENOTSUP;
	int ret = cow_disk_close(disk, loop, err);
	if (kept)
		return kept;
	if (ret)
		(*file)->host->ops->close(*file);
	else
		note_length(*file);
	return ret;
}

uint64_t cow_disk_bytes(const struct cow_disk *disk)
{
	if (disk->image)
		return cow_image_geometry(disk->image)->size_bytes;
	return cow_round_up(disk->file->size_bytes, 512);
}

uint32_t cow_disk_cluster_bytes(const struct cow_disk *disk)
{
	return disk->image ? cow_image_geometry(disk->image)->cluster_bytes : 512;
}

const char *cow_disk_path(const struct cow_disk *disk)
{
	return disk->path;
}

void cow_disk_identity(const struct cow_disk *disk, uint64_t *dev, uint64_t *ino)
{
	if (disk->image) {
		cow_image_identity(disk->image, dev, ino);
		return;
	}
	*dev = disk->file->dev;
	*ino = disk->file->ino;
}

/* ---- the chain ---- */

bool cow_disk_backing(const struct cow_disk *disk, uint64_t *dev, uint64_t *ino, uint64_t *bytes)
{
	const struct cow_image *below = disk->image ? disk->image->backing : NULL;
	if (!below)
		return false;
	*dev = below->core.file->dev;
	*ino = below->core.file->ino;
	*bytes = below->core.g.size_bytes;
	return true;
}

uint64_t cow_disk_reach(const struct cow_disk *disk, unsigned depth)
{
	uint64_t reach = cow_disk_bytes(disk);
	const struct cow_image *image = disk->image;
	for (; image && depth; depth--, image = image->backing)
		reach = cow_min(reach, image->backing ? image->backing->core.g.size_bytes : 0);
	return reach;
}

int cow_disk_find_level(const struct cow_disk *disk, uint64_t dev, uint64_t ino, uint64_t *reach)
{
	int depth = 0;
	for (const struct cow_image *image = disk->image; image; image = image->backing, depth++) {
		if (image->core.file->dev != dev || image->core.file->ino != ino)
			continue;
		*reach = cow_disk_reach(disk, (unsigned)depth);
		return depth;
	}
	return -1;
}

static bool is_file(const struct cow_file *file, uint64_t dev, uint64_t ino)
{
	return file && file->dev == dev && file->ino == ino;
}

bool cow_disk_uses(const struct cow_disk *disk, uint64_t dev, uint64_t ino)
{
	const struct cow_image *image = disk->image;
	bool found = is_file(disk->file, dev, ino);
	for (; image && !found; image = image->backing)
		found = is_file(image->core.file, dev, ino) || is_file(image->core.data, dev, ino);
	return found;
}

bool cow_disk_writes_to(const struct cow_disk *disk, const struct cow_disk *other)
{
	const struct cow_file *file = disk->image ? disk->image->core.file : disk->file;
	const struct cow_file *data = disk->image ? disk->image->core.data : file;
	return cow_disk_uses(other, file->dev, file->ino) ||
	       cow_disk_uses(other, data->dev, data->ino);
}

void cow_disk_keep_quiet(struct cow_disk *disk)
{
	struct cow_file *file = disk->image ? disk->image->core.file : disk->file;
	atomic_store(&file->complained, true);
	if (disk->image)
		atomic_store(&disk->image->core.data->complained, true);
}
