/* SPDX-License-Identifier: MIT */
/*
 * See chain.h. In this order: roots; files of the chain; what an image names; external data file.
 */
#include "engine/life/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/format/format.h"
#include "engine/format/reference.h"
#include "engine/host/lock.h"
#include "engine/host/system.h"
#include "engine/loop/blocking.h"

/* ---- roots ---- */

static void close_roots(struct cow_root **roots, size_t nr)
{
	for (size_t i = 0; roots && i < nr; i++)
		cow_root_close(roots[i]);
	free(roots);
}

static int open_roots(struct cow_chain *chain, const char *const *dirs, size_t nr,
		      struct cow_root ***out, struct cow_error *err)
{
	*out = calloc(nr ? nr : 1, sizeof(**out));
	if (!*out)
		return cow_error_no_memory(err);
	for (size_t i = 0; i < nr; i++) {
		int ret = cow_root_open(chain->host, dirs[i], &(*out)[i], err);
		if (ret)
			return ret;
	}
	return 0;
}

int cow_chain_init(struct cow_chain *chain, struct cow_error *err)
{
	const struct cow_open_options *o = chain->options;
	int ret = open_roots(chain, o->backing_roots, o->nr_backing_roots, &chain->backing, err);
	if (!ret)
		ret = open_roots(chain, o->data_roots, o->nr_data_roots, &chain->data, err);
	return ret;
}

void cow_chain_fini(struct cow_chain *chain)
{
	cow_root_close(chain->own);
	close_roots(chain->backing, chain->options->nr_backing_roots);
	close_roots(chain->data, chain->options->nr_data_roots);
	if (chain->below)
		chain->host->ops->close(chain->below);
}

static struct cow_root *find_root(struct cow_root **roots, size_t nr, const char *path)
{
	for (size_t i = 0; i < nr; i++)
		if (cow_root_below(roots[i], path))
			return roots[i];
	return NULL;
}

/* ---- files of the chain ---- */

const char *cow_chain_snapshot(const struct cow_chain *chain, enum cow_chain_place place)
{
	return place == COW_CHAIN_TOP ? chain->options->snapshot : NULL;
}

unsigned cow_chain_flags(const struct cow_chain *chain, enum cow_chain_place place)
{
	const struct cow_open_options *o = chain->options;
	bool no_lock = o->no_lock || cow_chain_snapshot(chain, place);
	return (place == COW_CHAIN_TOP && o->writable ? COW_OPEN_WRITE : 0) |
	       (no_lock ? COW_OPEN_NO_LOCK : 0) | (o->buffered ? COW_OPEN_BUFFERED : 0);
}

/* Flags to open a file with that cow_chain_enter() shall lock. */
static unsigned unlocked(const struct cow_chain *chain, unsigned flags)
{
	return flags | (chain->host->ops->lock ? COW_OPEN_NO_LOCK : 0);
}

/* Disks below /dev, or everything: nobody meant that. */
static bool has_own_folder(const struct cow_root *folder, const struct cow_file *file)
{
	return !folder->slash && !file->block_device;
}

static int check_identity(struct cow_chain *chain, struct cow_file *file, struct cow_error *err)
{
	const struct cow_open_options *o = chain->options;
	if (!o->file_ino || (o->file_dev == file->dev && o->file_ino == file->ino))
		return 0;
	cow_error_set(err, -ESTALE, "%s: is another file than the one that was given: try again",
		      file->path);
	chain->host->ops->close(file);
	return -ESTALE;
}

/*
 * The next file of a process that died. It has its lock, which must not go when we fail: somebody else
 * keeps it for the next one.
 */
static int take_kept(struct cow_chain *chain, unsigned flags, struct cow_file **out,
		     struct cow_error *err)
{
	const struct cow_open_options *o = chain->options;
	if (chain->nr_taken == o->nr_kept)
		return cow_error_set(err, -ESTALE, "the image has more files than it had");
	const struct cow_kept_file *kept = &o->kept[chain->nr_taken++];
	int fd = fcntl(kept->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return cow_error_set(err, -errno, "%s: %s", kept->path, strerror(errno));
	int ret = cow_system_adopt(fd, kept->path, flags | COW_OPEN_NO_LOCK, out, err);
	if (ret)
		return ret;
	cow_system_share_lock(*out);
	(*out)->unlocked = flags & COW_OPEN_NO_LOCK;
	return 0;
}

int cow_chain_open_named(struct cow_chain *chain, const char *path, unsigned flags,
			 struct cow_file **out, struct cow_error *err)
{
	struct cow_root *folder;
	char *name;
	if (chain->options->kept) {
		int taken = take_kept(chain, flags, out, err);
		chain->named = taken ? NULL : *out;
		return taken;
	}
	int ret = cow_root_of(chain->host, path, &folder, &name, err);
	if (ret)
		return ret;
	ret = cow_root_open_file(folder, name, unlocked(chain, flags), out, err);
	free(name);
	if (!ret)
		ret = check_identity(chain, *out, err);
	if (!ret && has_own_folder(folder, *out))
		chain->own = folder;
	else
		cow_root_close(folder);
	if (!ret)
		chain->named = *out;
	return ret;
}

int cow_chain_count(struct cow_chain *chain, const char *path, unsigned *depth,
		    struct cow_error *err)
{
	if (chain->nr_images == COW_MAX_BACKING_DEPTH)
		return cow_error_set(err, -ELOOP, "%s: backing chain: more than %d images", path,
				     COW_MAX_BACKING_DEPTH);
	*depth = chain->nr_images++;
	return 0;
}

static int seen_before(const struct cow_chain *chain, const struct cow_file *file,
		       struct cow_error *err)
{
	for (unsigned i = 0; i < chain->nr_seen; i++)
		if (chain->seen[i].dev == file->dev && chain->seen[i].ino == file->ino)
			return cow_error_set(err, -ELOOP,
					     "%s: backing chain: the file refers to itself",
					     file->path);
	return 0;
}

int cow_chain_enter(struct cow_chain *chain, struct cow_file *file, unsigned flags,
		    struct cow_error *err)
{
	int ret = seen_before(chain, file, err);
	if (ret)
		return ret;
	cow_assert(chain->nr_seen < 2 * COW_MAX_BACKING_DEPTH);
	chain->seen[chain->nr_seen].dev = file->dev;
	chain->seen[chain->nr_seen].ino = file->ino;
	chain->nr_seen++;
	bool locked = flags & COW_OPEN_NO_LOCK || chain->options->kept;
	return locked ? 0 : cow_lock_file(file, err);
}

/* ---- what an image names ---- */

/* What a file is wanted for, and under whose name it is asked for. */
struct wanted {
	struct cow_image *image;
	const char *what; /* "backing file" or "data file" */
	unsigned flags;
	bool data; /* a data file: what may be written to may be read, as a data file only */
};

/* Where name leads now: a guess that is only used to find the root that it is opened below. */
static int resolve(const struct wanted *w, struct cow_chain *chain, const char *name, char **out,
		   struct cow_error *err)
{
	if (!strncmp(name, "file:", 5))
		name += 5;
	if (cow_reference_has_protocol(name))
		return cow_error_set(err, -EPERM, "%s: %s \"%s\": only plain file names are opened",
				     w->image->core.path, w->what, name);
	char *path = cow_reference_resolve(w->image->core.path, name);
	if (!path)
		return -ENOMEM;
	int ret = chain->host->ops->realpath(chain->host, path, out);
	if (ret)
		cow_error_set(err, ret, "%s: %s %s: %s", w->image->core.path, w->what, path,
			      strerror(-ret));
	free(path);
	return ret;
}

static int refuse_outside(const struct wanted *w, struct cow_chain *chain, const char *path,
			  struct cow_error *err)
{
	if (w->flags & COW_OPEN_WRITE)
		return cow_error_set(err, -EPERM,
				     "%s: %s %s would be written to: allow that with --data-root "
				     "DIR, for all below DIR",
				     w->image->core.path, w->what, path);
	return cow_error_set(err, -EPERM,
			     "%s: %s %s lies outside the allowed directories%s: allow it with "
			     "--backing-root DIR",
			     w->image->core.path, w->what, path,
			     chain->own ? "" : " (an image on a block device or in / has none)");
}

static struct cow_root *choose_root(const struct wanted *w, struct cow_chain *chain,
				    const char *path)
{
	const struct cow_open_options *o = chain->options;
	struct cow_root *root = NULL;
	if (w->data)
		root = find_root(chain->data, o->nr_data_roots, path);
	if (root || w->flags & COW_OPEN_WRITE)
		return root;
	root = find_root(chain->backing, o->nr_backing_roots, path);
	return root ? root : chain->own ? find_root(&chain->own, 1, path) : NULL;
}

/* Below the own folder, which nobody chose for this. */
static int check_own(const struct wanted *w, const struct cow_file *file, struct cow_error *err)
{
	if (file->block_device)
		return cow_error_set(err, -EPERM,
				     "%s: %s %s is a block device: allow it with --backing-root "
				     "DIR",
				     w->image->core.path, w->what, file->path);
	if (file->hidden_link && file->owner != w->image->core.file->owner)
		return cow_error_set(err, -EPERM,
				     "%s: %s %s is a hard link to a file of user %u that not "
				     "everybody may read: allow it with --backing-root DIR",
				     w->image->core.path, w->what, file->path, file->owner);
	return 0;
}

static int open_wanted(const struct wanted *w, struct cow_chain *chain, const char *name,
		       struct cow_file **out, struct cow_error *err)
{
	char *path;
	if (chain->options->kept)
		return take_kept(chain, w->flags, out, err);
	int ret = resolve(w, chain, name, &path, err);
	if (ret)
		return ret;
	struct cow_root *root = choose_root(w, chain, path);
	*out = NULL;
	if (!root)
		ret = refuse_outside(w, chain, path, err);
	else
		ret = cow_root_open_file(root, cow_root_below(root, path),
					 unlocked(chain, w->flags), out, err);
	free(path);
	if (!ret && root == chain->own)
		ret = check_own(w, *out, err);
	if (ret && *out)
		chain->host->ops->close(*out);
	return ret;
}

static int format_is_raw(struct cow_image *image, const char *name, bool *raw,
			 struct cow_error *err)
{
	const char *format = image->core.ext.backing_format;
	if (!image->core.ext.has_backing_format)
		return cow_error_set(
			err, -EINVAL,
			"%s: backing file \"%s\" has no format recorded and formats are not "
			"guessed: set it with cowblk rebase -u -F FORMAT -b \"%s\"",
			image->core.path, name, name);
	*raw = !strcmp(format, "raw");
	if (!*raw && strcmp(format, "qcow2"))
		return cow_error_set(
			err, -ENOTSUP,
			"%s: backing file \"%s\" has format \"%s\": only raw and qcow2 are "
			"supported",
			image->core.path, name, format);
	return 0;
}

static int open_backing_file(struct cow_image *image, struct cow_chain *chain, const char *name,
			     struct cow_file **out, struct cow_error *err)
{
	const struct wanted w = { image, "backing file", cow_chain_flags(chain, COW_CHAIN_BELOW),
				  false };
	if (!chain->below)
		return open_wanted(&w, chain, name, out, err);
	*out = chain->below;
	chain->below = NULL;
	return 0;
}

int cow_chain_open_backing(struct cow_chain *chain, struct cow_image *image, const uint8_t *cluster,
			   struct cow_chain_file *out, struct cow_error *err)
{
	char name[1024];
	out->file = NULL;
	int ret = cow_reference_backing_name(cluster, &image->core.header, name, err);
	if (ret || !name[0] || chain->options->no_backing)
		return ret;
	ret = format_is_raw(image, name, &out->raw, err);
	return ret ? ret : open_backing_file(image, chain, name, &out->file, err);
}

/* ---- external data file ---- */

static int open_data_file(struct cow_image *image, struct cow_chain *chain, unsigned flags,
			  struct cow_file **out, struct cow_error *err)
{
	const struct wanted w = { image, "data file", flags, true };
	if (chain->options->kept)
		return take_kept(chain, flags, out, err);
	if (image->core.file == chain->named && chain->options->data_file)
		return chain->host->ops->open(chain->host, chain->options->data_file,
					      unlocked(chain, flags), out, err);
	if (!image->core.ext.has_data_file || !image->core.ext.data_file[0])
		return cow_error_set(
			err, -EINVAL,
			"%s: the image does not name its external data file: give it with "
			"--data-file FILE",
			image->core.path);
	return open_wanted(&w, chain, image->core.ext.data_file, out, err);
}

/* Before it is locked: a stranger's file is none of our business. */
static int check_data_owner(struct cow_image *image, const struct cow_chain *chain,
			    const struct cow_file *file, struct cow_error *err)
{
	if (!image->core.writable || chain->options->kept || file->callers ||
	    file->owner == image->core.file->owner)
		return 0;
	return cow_error_set(err, -EPERM,
			     "%s: data file %s belongs to user %u, neither to who owns the image "
			     "nor to the caller: change its owner",
			     image->core.path, file->path, file->owner);
}

/* Another image would be destroyed by what is written to this one. */
static int check_data_format(struct cow_image *image, struct cow_chain *chain,
			     struct cow_file *file, struct cow_error *err)
{
	if (!image->core.writable || chain->options->data_is_raw || chain->options->kept)
		return 0;
	uint8_t *head = cow_buf_alloc(4096);
	if (!head)
		return cow_error_no_memory(err);
	int ret = cow_loop_read(chain->loop, file, 0, head, 4096);
	const char *is = ret ? NULL : cow_format_recognise(head, 4096);
	free(head);
	if (ret)
		return cow_error_set(err, ret, "%s: data file %s: cannot read: %s",
				     image->core.path, file->path, strerror(-ret));
	if (!is)
		return 0;
	return cow_error_set(err, -EPERM,
			     "%s: data file %s begins as %s, which would be overwritten: if the "
			     "disk itself holds that, add --data-format raw",
			     image->core.path, file->path, is);
}

int cow_chain_open_data(struct cow_chain *chain, struct cow_image *image, struct cow_error *err)
{
	const struct cow_open_options *options = chain->options;
	const struct cow_header header = cow_core_header(&image->core);
	image->core.data = image->core.file;
	if (!(header.incompatible & QCOW2_INCOMPAT_DATA_FILE)) {
		if (image->core.file != chain->named || !options->data_file)
			return 0;
		return cow_error_set(
			err, -EINVAL,
			"%s: the image has no external data file: leave out --data-file",
			image->core.path);
	}
	unsigned flags = (image->core.writable ? COW_OPEN_WRITE : 0) |
			 (options->no_lock ? COW_OPEN_NO_LOCK : 0) |
			 (options->buffered ? COW_OPEN_BUFFERED : 0);
	struct cow_file *file;
	int ret = open_data_file(image, chain, flags, &file, err);
	if (ret)
		return ret;
	image->core.data = file;
	image->core.raw_data_file = header.autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
	ret = check_data_owner(image, chain, file, err);
	if (!ret)
		ret = cow_chain_enter(chain, file, flags, err);
	if (!ret)
		ret = check_data_format(image, chain, file, err);
	return ret;
}
