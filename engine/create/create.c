/* SPDX-License-Identifier: MIT */
/*
 * Writes a new image: tables first, then a barrier, then the header. Until the header is durable
 * the file is no qcow2 image, so a crash in between leaves nothing that could be mistaken for one.
 */
#include "engine/create/create.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/create/create_backing.h"
#include "engine/create/create_features.h"
#include "engine/create/create_header.h"
#include "engine/create/create_layout.h"
#include "engine/create/create_tables.h"
#include "engine/format/reference.h"
#include "engine/host/system.h"
#include "engine/loop/blocking.h"

/* A file that is being made. */
struct new_file {
	const char *path;
	struct cow_file *file;
	bool existed;
	bool given; /* the caller's */
};

struct creation {
	struct cow_host *host;
	struct cow_loop *loop;
	const struct cow_create_options *options;
	struct cow_create_layout layout;
	struct new_file image, data; /* data.path NULL: there is no data file */
	uint8_t *first_cluster;
};

/* ---- a file ---- */

/* The name space of a simulated host has no unlink; nothing there outlives the test. */
static void close_new(struct creation *c, struct new_file *f, bool failed)
{
	if (!f->file || f->given)
		return;
	if (failed && !f->existed && c->host == cow_host_system())
		cow_system_remove(f->file);
	else
		c->host->ops->close(f->file);
}

static int set_mode(struct creation *c, struct new_file *f, struct cow_error *err)
{
	if (!c->options->has_mode || c->host != cow_host_system() || f->file->block_device)
		return 0;
	if (!fchmod(cow_host_fd(f->file), c->options->mode))
		return 0;
	return cow_error_set(err, -errno, "%s: cannot set its mode: %s", f->path, strerror(errno));
}

/* What is there stays until all that can be refused is known: see set_length(). */
static int open_new(struct creation *c, struct new_file *f, struct cow_error *err)
{
	struct cow_error first = { 0 };
	int ret = c->host->ops->open(c->host, f->path, COW_OPEN_CREATE | COW_OPEN_BUFFERED,
				     &f->file, &first);
	if (ret == -EEXIST && !c->options->overwrite)
		return cow_error_set(err, ret, "%s: exists already: use --force to overwrite it",
				     f->path);
	if (ret == -EEXIST) {
		f->existed = true;
		first = (struct cow_error){ 0 };
		ret = c->host->ops->open(c->host, f->path, COW_OPEN_WRITE | COW_OPEN_BUFFERED,
					 &f->file, &first);
	}
	if (ret && first.code)
		return cow_error_set(err, ret, "%s", first.text);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot create: %s", f->path, strerror(-ret));
	return set_mode(c, f, err);
}

/* What check_apart() found by names may have been exchanged since. */
static int check_files_apart(struct creation *c, struct cow_error *err)
{
	const struct cow_file *image = c->image.file, *data = c->data.file;
	if (image->dev != data->dev || image->ino != data->ino)
		return 0;
	return cow_error_set(err, -EINVAL, "%s: would be its own data file", c->image.path);
}

/* The file as zeros of that length; a block device is as long as it is. */
static int set_length(struct creation *c, struct new_file *f, uint64_t bytes, struct cow_error *err)
{
	enum cow_preallocation preallocation = cow_create_preallocation(c->options);
	if (!f->file->block_device) {
		int ret = f->existed ? cow_loop_resize(c->loop, f->file, 0) : 0;
		if (!ret)
			ret = cow_loop_resize(c->loop, f->file, bytes);
		return ret ? cow_error_set(err, ret, "%s: cannot write: %s", f->path,
					   strerror(-ret))
			   : 0;
	}
	if (preallocation != COW_PREALLOC_OFF && preallocation != COW_PREALLOC_FULL)
		return cow_error_set(
			err, -EINVAL,
			"%s: preallocation: old data of a block device would show: use off%s full",
			f->path, c->options->data_file_raw ? " without data_file_raw, or" : " or");
	if (bytes > f->file->size_bytes)
		return cow_error_set(err, -ENOSPC,
				     "%s: block device of %" PRIu64 " bytes: too small", f->path,
				     f->file->size_bytes);
	return 0;
}

/* ---- both ---- */

static int write_all(struct creation *c, struct cow_error *err)
{
	const struct cow_header *h = &c->layout.header;
	struct cow_file *image = c->image.file, *data = c->data.file;
	int ret = cow_create_write_tables(c->loop, image, data, &c->layout, c->options, err);
	if (!ret && data)
		ret = cow_loop_sync(c->loop, data);
	if (!ret)
		ret = cow_loop_sync(c->loop, image);
	if (!ret)
		ret = cow_loop_write(c->loop, image, 0, c->first_cluster, cow_cluster_bytes(h));
	if (!ret)
		ret = cow_loop_sync(c->loop, image);
	if (ret) {
		cow_error_set(err, ret, "cannot write: %s", strerror(-ret));
		cow_error_prefix(err, "%s", c->image.path);
	}
	return ret;
}

static int create_files(struct creation *c, struct cow_error *err)
{
	const struct cow_header *h = &c->layout.header;
	int ret = c->image.given ? 0 : open_new(c, &c->image, err);
	if (!ret && c->data.path)
		ret = open_new(c, &c->data, err);
	if (!ret && c->data.path)
		ret = check_files_apart(c, err);
	if (!ret && c->data.path)
		ret = set_length(c, &c->data, h->size_bytes, err);
	if (!ret)
		ret = set_length(c, &c->image, c->layout.nr_clusters << h->cluster_bits, err);
	if (!ret)
		ret = write_all(c, err);
	close_new(c, &c->image, ret);
	close_new(c, &c->data, ret);
	return ret;
}

/* ---- before anything is written ---- */

static bool same_file(const struct creation *c, const char *a, const char *b)
{
	struct stat sa, sb;
	if (c->host != cow_host_system())
		return !strcmp(a, b);
	return !stat(a, &sa) && !stat(b, &sb) && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/* With --force, what is overwritten must not be the backing file. */
static int check_apart(struct creation *c, struct cow_error *err)
{
	const struct cow_create_options *o = c->options;
	char *backing =
		o->backing_file ? cow_reference_resolve(c->image.path, o->backing_file) : NULL;
	int ret = 0;
	if (o->backing_file && !backing)
		ret = cow_error_no_memory(err);
	else if (backing && same_file(c, backing, c->image.path))
		ret = cow_error_set(err, -EINVAL, "%s: would be its own backing file",
				    c->image.path);
	else if (c->data.path && (!strcmp(c->data.path, c->image.path) ||
				  same_file(c, c->data.path, c->image.path)))
		ret = cow_error_set(err, -EINVAL, "%s: would be its own data file", c->image.path);
	else if (c->data.path && backing && same_file(c, c->data.path, backing))
		ret = cow_error_set(err, -EINVAL,
				    "%s: cannot be the data file and the backing file",
				    c->data.path);
	free(backing);
	return ret;
}

static int find_data_file(struct creation *c, char **path, struct cow_error *err)
{
	const char *name = c->options->data_file;
	*path = NULL;
	if (!name)
		return 0;
	if (cow_reference_has_protocol(name))
		return cow_error_set(
			err, -EINVAL,
			"data file %s: looks like a protocol's name: write ./%s for a file", name,
			name);
	*path = cow_reference_resolve(c->image.path, name);
	c->data.path = *path;
	return *path ? 0 : cow_error_no_memory(err);
}

static int plan(struct creation *c, struct cow_error *err)
{
	uint64_t size_bytes = 0;
	int ret =
		cow_create_find_size(c->host, c->loop, c->image.path, c->options, &size_bytes, err);
	if (!ret)
		ret = cow_create_layout_init(&c->layout, c->options, size_bytes, err);
	if (ret)
		return ret;
	c->first_cluster = cow_buf_alloc(cow_cluster_bytes(&c->layout.header));
	if (!c->first_cluster)
		return cow_error_no_memory(err);
	return cow_create_first_cluster(&c->layout, c->options, c->first_cluster, err);
}

int cow_create(struct cow_host *host, struct cow_loop *loop, const char *path,
	       const struct cow_create_options *options, struct cow_error *err)
{
	struct creation c = {
		.host = host,
		.loop = loop,
		.options = options,
		.image = { .path = path, .file = options->into, .given = options->into },
	};
	char *data_path = NULL;
	int ret = plan(&c, err);
	if (!ret)
		ret = find_data_file(&c, &data_path, err);
	if (ret)
		cow_error_prefix(err, "%s", path);
	if (!ret && !options->into)
		ret = check_apart(&c, err);
	if (!ret)
		ret = create_files(&c, err);
	free(data_path);
	free(c.first_cluster);
	return ret;
}
