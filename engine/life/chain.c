/* SPDX-License-Identifier: MIT */
#include "engine/life/chain.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int seen_before(const struct cow_chain *chain, const char *path, uint64_t dev, uint64_t ino,
		       struct cow_error *err)
{
	for (unsigned i = 0; i < chain->depth; i++)
		if (chain->seen[i].dev == dev && chain->seen[i].ino == ino)
			return cow_error_set(err, -ELOOP,
					     "%s: backing chain: the file refers to itself", path);
	return 0;
}

int cow_chain_foresee(const struct cow_chain *chain, const char *path, struct cow_error *err)
{
	const struct cow_host_ops *ops = chain->host->ops;
	uint64_t dev, ino;
	if (!ops->identify || ops->identify(chain->host, path, &dev, &ino))
		return 0;
	return seen_before(chain, path, dev, ino, err);
}

int cow_chain_enter(struct cow_chain *chain, const struct cow_file *file, struct cow_error *err)
{
	int ret = seen_before(chain, file->path, file->dev, file->ino, err);
	if (ret)
		return ret;
	if (chain->depth == COW_MAX_BACKING_DEPTH)
		return cow_error_set(err, -ELOOP, "%s: backing chain: more than %d images",
				     file->path, COW_MAX_BACKING_DEPTH);
	chain->seen[chain->depth].dev = file->dev;
	chain->seen[chain->depth].ino = file->ino;
	chain->depth++;
	return 0;
}

/* "nbd:...", "json:{...}", "http://...": a scheme before the first slash. */
static bool has_protocol(const char *name)
{
	size_t n = strcspn(name, ":/");
	return name[n] == ':';
}

static bool under(const char *path, const char *dir)
{
	size_t n = strlen(dir);
	while (n > 1 && dir[n - 1] == '/')
		n--;
	if (n == 1 && dir[0] == '/')
		return true;
	return !strncmp(path, dir, n) && path[n] == '/';
}

static bool under_a_root(struct cow_chain *chain, const char *path)
{
	if (under(path, chain->top_dir))
		return true;
	for (size_t i = 0; i < chain->options->nr_backing_roots; i++) {
		char *root;
		if (chain->host->ops->realpath(chain->host, chain->options->backing_roots[i],
					       &root))
			continue;
		bool ok = under(path, root) || !strcmp(path, root);
		free(root);
		if (ok)
			return true;
	}
	return false;
}

/* name as written in image -> path to open, relative names from the image's own directory. */
static char *join(const char *image_path, const char *name)
{
	const char *slash = strrchr(image_path, '/');
	char *path;
	int n;
	if (name[0] == '/' || !slash)
		return strdup(name);
	n = asprintf(&path, "%.*s/%s", (int)(slash - image_path), image_path, name);
	return n < 0 ? NULL : path;
}

/* what: "backing file" or "data file"; option: what allows it. */
static int resolve(struct cow_image *image, struct cow_chain *chain, const char *what,
		   const char *name, char **out, struct cow_error *err)
{
	if (!strncmp(name, "file:", 5))
		name += 5;
	if (has_protocol(name))
		return cow_error_set(err, -EPERM, "%s: %s \"%s\": only plain file names are opened",
				     image->path, what, name);
	char *path = join(image->path, name);
	if (!path)
		return -ENOMEM;
	int ret = chain->host->ops->realpath(chain->host, path, out);
	if (ret)
		cow_error_set(err, ret, "%s: %s %s: %s", image->path, what, path, strerror(-ret));
	free(path);
	if (ret)
		return ret;
	if (under_a_root(chain, *out))
		return 0;
	ret = cow_error_set(err, -EPERM,
			    "%s: %s %s lies outside the allowed directories: allow it with "
			    "--backing-root DIR",
			    image->path, what, *out);
	free(*out);
	return ret;
}

static int format_is_raw(struct cow_image *image, const char *name, bool *raw,
			 struct cow_error *err)
{
	const char *format = image->ext.backing_format;
	if (!image->ext.has_backing_format)
		return cow_error_set(
			err, -EINVAL,
			"%s: backing file \"%s\" has no format recorded and formats are not "
			"guessed: set it with qemu-img rebase -u -F FORMAT -b \"%s\"",
			image->path, name, name);
	*raw = !strcmp(format, "raw");
	if (!*raw && strcmp(format, "qcow2"))
		return cow_error_set(
			err, -ENOTSUP,
			"%s: backing file \"%s\" has format \"%s\": only raw and qcow2 are "
			"supported",
			image->path, name, format);
	return 0;
}

int cow_backing_open(struct cow_image *image, struct cow_chain *chain, const uint8_t *cluster,
		     struct cow_error *err)
{
	char name[1024], *path;
	bool raw;
	int ret = cow_backing_name(cluster, &image->header, name, err);
	if (ret || !name[0] || chain->options->no_backing)
		return ret;
	ret = format_is_raw(image, name, &raw, err);
	if (!ret)
		ret = resolve(image, chain, "backing file", name, &path, err);
	if (ret)
		return ret;
	ret = cow_image_open_in_chain(chain, path, raw, false, &image->backing, err);
	free(path);
	if (!ret)
		image->backing_bytes = image->backing->g.size_bytes;
	return ret;
}

/* ---- external data file ---- */

static int data_file_path(struct cow_image *image, struct cow_chain *chain, char **path,
			  struct cow_error *err)
{
	if (image->depth == 0 && chain->options->data_file)
		return (*path = strdup(chain->options->data_file)) ? 0 : -ENOMEM;
	if (!image->ext.has_data_file || !image->ext.data_file[0])
		return cow_error_set(
			err, -EINVAL,
			"%s: the image does not name its external data file: give it with "
			"--data-file FILE",
			image->path);
	return resolve(image, chain, "data file", image->ext.data_file, path, err);
}

int cow_data_file_open(struct cow_image *image, struct cow_chain *chain, struct cow_error *err)
{
	const struct cow_open_options *options = chain->options;
	char *path;
	image->data = image->file;
	if (!(image->header.incompatible & QCOW2_INCOMPAT_DATA_FILE)) {
		if (image->depth || !options->data_file)
			return 0;
		return cow_error_set(
			err, -EINVAL,
			"%s: the image has no external data file: leave out --data-file",
			image->path);
	}
	int ret = data_file_path(image, chain, &path, err);
	if (ret)
		return ret;
	unsigned flags = (image->writable ? COW_OPEN_WRITE : 0) |
			 (options->no_lock ? COW_OPEN_NO_LOCK : 0) |
			 (options->buffered ? COW_OPEN_BUFFERED : 0);
	struct cow_file *file = NULL;
	ret = cow_chain_foresee(chain, path, err);
	if (!ret)
		ret = chain->host->ops->open(chain->host, path, flags, &file, err);
	free(path);
	if (ret)
		return ret;
	image->data = file;
	image->raw_data_file = image->header.autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
	return cow_chain_enter(chain, file, err);
}
