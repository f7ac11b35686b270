/* SPDX-License-Identifier: MIT */
/*
 * Writes a new image: tables first, then a barrier, then the header. Until the header is durable the file is no qcow2 image,
 * so a crash in between leaves nothing that could be mistaken for one.
 */
#include "engine/create.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/be.h"
#include "engine/create_layout.h"
#include "engine/host.h"

#define CHUNK_BYTES (1u << 20)

struct creation {
	struct cow_loop *loop;
	struct cow_file *file;
	const struct cow_create_layout *layout;
	uint8_t *chunk; /* CHUNK_BYTES, a multiple of every entry size */
};

/* ---- the backing file's size ---- */

/* A name that QEMU would take for a protocol's, not for a file's. */
static bool looks_like_protocol(const char *name)
{
	size_t n = strcspn(name, ":/");
	return name[n] == ':';
}

/* Relative names are relative to the new image's directory, as QEMU does it. */
static char *resolve_backing(const char *image_path, const char *name)
{
	const char *slash = strrchr(image_path, '/');
	char *out = NULL;
	if (name[0] == '/' || !slash)
		return strdup(name);
	if (asprintf(&out, "%.*s/%s", (int)(slash - image_path), image_path, name) < 0)
		return NULL;
	return out;
}

static int load_backing_size(struct cow_loop *loop, struct cow_file *file, bool qcow2, uint64_t *size_bytes,
			     struct cow_error *err)
{
	if (!qcow2) {
		*size_bytes = (file->size_bytes + 511) & ~511ull;
		return 0;
	}
	uint8_t *buf = cow_buf_alloc(4096);
	if (!buf)
		return cow_error_set(err, -ENOMEM, "out of memory");
	struct cow_header h;
	int ret = cow_loop_read(loop, file, 0, buf, 4096);
	if (ret)
		cow_error_set(err, ret, "header: cannot read: %s", strerror(-ret));
	else
		ret = cow_header_decode(buf, 4096, &h, err);
	if (!ret)
		*size_bytes = h.size_bytes;
	free(buf);
	return ret;
}

static int open_backing_size(struct cow_host *host, struct cow_loop *loop, const char *path, bool qcow2,
			     uint64_t *size_bytes, struct cow_error *err)
{
	struct cow_file *file;
	/* Only its size is wanted, and that of an image in use is known too. */
	int ret = host->ops->open(host, path, COW_OPEN_BUFFERED | COW_OPEN_NO_LOCK, &file, err);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot open: %s", path, strerror(-ret));
	ret = load_backing_size(loop, file, qcow2, size_bytes, err);
	if (ret)
		cow_error_prefix(err, "%s", path);
	host->ops->close(file);
	return ret;
}

static int check_backing_options(const struct cow_create_options *o, struct cow_error *err)
{
	if (!o->backing_format || (strcmp(o->backing_format, "qcow2") && strcmp(o->backing_format, "raw")))
		return cow_error_set(err, -EINVAL, "backing format %s: name it, qcow2 or raw (-F)",
				     o->backing_format ? o->backing_format : "missing");
	if (!o->backing_file[0])
		return cow_error_set(err, -EINVAL, "backing file: the name is empty");
	if (looks_like_protocol(o->backing_file))
		return cow_error_set(err, -EINVAL, "backing file %s: looks like a protocol's name: write ./%s for a file",
				     o->backing_file, o->backing_file);
	return 0;
}

static int backing_size(struct cow_host *host, struct cow_loop *loop, const char *path,
			const struct cow_create_options *o, uint64_t *size_bytes, struct cow_error *err)
{
	int ret = check_backing_options(o, err);
	if (ret || o->unsafe)
		return ret;
	char *backing = resolve_backing(path, o->backing_file);
	if (!backing)
		return cow_error_set(err, -ENOMEM, "out of memory");
	ret = open_backing_size(host, loop, backing, !strcmp(o->backing_format, "qcow2"), size_bytes, err);
	if (ret)
		cow_error_prefix(err, "backing file");
	free(backing);
	return ret;
}

static int find_size(struct cow_host *host, struct cow_loop *loop, const char *path,
		     const struct cow_create_options *o, uint64_t *size_bytes, struct cow_error *err)
{
	uint64_t from_backing = 0;
	int ret = o->backing_file ? backing_size(host, loop, path, o, &from_backing, err) : 0;
	if (ret)
		return ret;
	if (!o->has_size && (!o->backing_file || o->unsafe))
		return cow_error_set(err, -EINVAL, "size: missing: give it, or a backing file to take it from");
	if (o->size_bytes > INT64_MAX)
		return cow_error_set(err, -EFBIG, "size %" PRIu64 ": more than 2^63-1 bytes", o->size_bytes);
	if (o->has_size && o->size_bytes % 512)
		return cow_error_set(err, -EINVAL, "size %" PRIu64 ": must be a multiple of 512 bytes", o->size_bytes);
	*size_bytes = o->has_size ? o->size_bytes : from_backing;
	return 0;
}

/* ---- tables ---- */

/* Value of entry idx of a table of 64-bit entries. */
typedef uint64_t entry_fn(const struct cow_create_layout *l, uint64_t idx);

static uint64_t reftable_entry(const struct cow_create_layout *l, uint64_t idx)
{
	return idx < l->nr_refblocks ? l->refblocks_off + (idx << l->header.cluster_bits) : 0;
}

static uint64_t l1_entry(const struct cow_create_layout *l, uint64_t idx)
{
	return idx < l->nr_l2_tables ? (l->l2_off + (idx << l->header.cluster_bits)) | QCOW2_COPIED : 0;
}

static uint64_t l2_entry(const struct cow_create_layout *l, uint64_t idx)
{
	/* What stands in an encrypted cluster is noise until it is written. */
	uint64_t flags = QCOW2_COPIED | (l->crypto_bytes ? QCOW2_ZERO : 0);
	return idx < l->nr_data_clusters ? (l->data_off + (idx << l->header.cluster_bits)) | flags : 0;
}

static int write_table(struct creation *c, uint64_t off, uint64_t bytes, entry_fn *entry)
{
	for (uint64_t done = 0; done < bytes;) {
		uint64_t n = bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES;
		for (uint64_t i = 0; i < n; i += 8)
			cow_store64_be(c->chunk + i, entry(c->layout, (done + i) / 8));
		int ret = cow_loop_write(c->loop, c->file, off + done, c->chunk, n);
		if (ret)
			return ret;
		done += n;
	}
	return 0;
}

static int write_refblocks(struct creation *c)
{
	const struct cow_create_layout *l = c->layout;
	uint32_t order = l->header.refcount_order;
	uint64_t bytes = l->nr_refblocks << l->header.cluster_bits, idx = 0;
	for (uint64_t done = 0; done < bytes;) {
		uint64_t n = bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES;
		memset(c->chunk, 0, n);
		for (uint64_t i = 0; i < n * 8 >> order && idx < l->nr_clusters; i++, idx++)
			cow_refcount_set(c->chunk, order, i, 1);
		int ret = cow_loop_write(c->loop, c->file, l->refblocks_off + done, c->chunk, n);
		if (ret)
			return ret;
		done += n;
	}
	return 0;
}

static int write_zeros(struct creation *c, uint64_t off, uint64_t bytes)
{
	memset(c->chunk, 0, CHUNK_BYTES);
	for (uint64_t done = 0; done < bytes;) {
		uint64_t n = bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES;
		int ret = cow_loop_write(c->loop, c->file, off + done, c->chunk, n);
		if (ret)
			return ret;
		done += n;
	}
	return 0;
}

/* Reserve the host's space without writing it, where the host can; else write it. */
static int allocate(struct creation *c, uint64_t off, uint64_t bytes)
{
	if (c->file->host == cow_host_system() && bytes) {
		if (!fallocate(cow_host_fd(c->file), 0, (off_t)off, (off_t)bytes))
			return 0;
		if (errno != EOPNOTSUPP && errno != ENOSYS)
			return -errno;
	}
	return write_zeros(c, off, bytes);
}

static int write_data(struct creation *c, enum cow_preallocation preallocation)
{
	const struct cow_create_layout *l = c->layout;
	uint64_t bytes = l->nr_data_clusters << l->header.cluster_bits;
	if (preallocation == COW_PREALLOC_FULL)
		return write_zeros(c, l->data_off, bytes);
	if (preallocation == COW_PREALLOC_FALLOC)
		return allocate(c, l->data_off, bytes);
	return 0;
}

static int write_tables(struct creation *c, enum cow_preallocation preallocation)
{
	const struct cow_create_layout *l = c->layout;
	uint64_t cluster_mask = cow_cluster_bytes(&l->header) - 1;
	int ret = write_table(c, l->header.reftable_off,
			      (uint64_t)l->header.reftable_clusters << l->header.cluster_bits, reftable_entry);
	if (!ret)
		ret = write_refblocks(c);
	/* An empty L1 table in a new file is a hole. */
	if (!ret && (l->nr_l2_tables || c->file->block_device))
		ret = write_table(c, l->header.l1_off, (l->l1_bytes + cluster_mask) & ~cluster_mask, l1_entry);
	if (!ret)
		ret = write_table(c, l->l2_off, l->nr_l2_tables << l->header.cluster_bits, l2_entry);
	if (!ret)
		ret = write_data(c, preallocation);
	return ret;
}

/* The whole area first, zeros: what a block device held there before must not be taken for key material. */
static int write_crypto(struct creation *c, const struct cow_create_options *o, struct cow_error *err)
{
	const struct cow_create_layout *l = c->layout;
	if (!l->crypto_bytes)
		return 0;
	int ret = c->file->block_device ? write_zeros(c, l->crypto_off, l->crypto_bytes) : 0;
	return ret ? ret : cow_luks_format(c->loop, c->file, l->crypto_off, o->encrypt, o->secret, err);
}

static int write_all(struct creation *c, const uint8_t *first_cluster, const struct cow_create_options *o,
		     struct cow_error *err)
{
	const struct cow_header *h = &c->layout->header;
	int ret = 0;
	if (!c->file->block_device)
		ret = cow_loop_resize(c->loop, c->file, c->layout->nr_clusters << h->cluster_bits);
	if (!ret)
		ret = write_tables(c, o->preallocation);
	if (!ret)
		ret = write_crypto(c, o, err);
	if (!ret)
		ret = cow_loop_sync(c->loop, c->file);
	if (!ret)
		ret = cow_loop_write(c->loop, c->file, 0, first_cluster, cow_cluster_bytes(h));
	if (!ret)
		ret = cow_loop_sync(c->loop, c->file);
	return ret;
}

/* ---- the file ---- */

static int fits_device(const struct cow_file *file, const struct cow_create_layout *l,
		       const struct cow_create_options *o, struct cow_error *err)
{
	if (!file->block_device)
		return 0;
	if (o->preallocation != COW_PREALLOC_OFF && o->preallocation != COW_PREALLOC_FULL)
		return cow_error_set(err, -EINVAL, "preallocation: old data of a block device would show: use off or full");
	if (l->nr_clusters << l->header.cluster_bits > file->size_bytes)
		return cow_error_set(err, -ENOSPC, "block device of %" PRIu64 " bytes: too small", file->size_bytes);
	return 0;
}

static int create_in_file(struct cow_loop *loop, struct cow_file *file, const struct cow_create_layout *l,
			  const struct cow_create_options *o, const uint8_t *first_cluster, struct cow_error *err)
{
	int ret = fits_device(file, l, o, err);
	if (ret)
		return ret;
	struct creation c = {.loop = loop, .file = file, .layout = l, .chunk = cow_buf_alloc(CHUNK_BYTES)};
	if (!c.chunk)
		return cow_error_set(err, -ENOMEM, "out of memory");
	ret = write_all(&c, first_cluster, o, err);
	if (ret)
		cow_error_set(err, ret, "cannot write: %s", strerror(-ret));
	free(c.chunk);
	return ret;
}

/* The name space of a simulated host has no unlink; nothing there outlives the test. */
static void remove_file(struct cow_host *host, const char *path)
{
	if (host == cow_host_system())
		unlink(path);
}

static int open_new(struct cow_host *host, const char *path, bool overwrite, struct cow_file **file, bool *existed,
		    struct cow_error *err)
{
	struct cow_error first = {0};
	int ret = host->ops->open(host, path, COW_OPEN_CREATE | COW_OPEN_BUFFERED, file, &first);
	if (ret == -EEXIST && !overwrite)
		return cow_error_set(err, ret, "%s: exists already: use --force to overwrite it", path);
	if (ret == -EEXIST) {
		*existed = true;
		first = (struct cow_error){0};
		ret = host->ops->open(host, path, COW_OPEN_CREATE | COW_OPEN_TRUNCATE | COW_OPEN_BUFFERED, file,
				      &first);
	}
	if (ret && first.code)
		return cow_error_set(err, ret, "%s", first.text);
	return ret ? cow_error_set(err, ret, "%s: cannot create: %s", path, strerror(-ret)) : 0;
}

static int create_file(struct cow_host *host, struct cow_loop *loop, const char *path,
		       const struct cow_create_layout *l, const struct cow_create_options *o,
		       const uint8_t *first_cluster, struct cow_error *err)
{
	struct cow_file *file;
	bool existed = false;
	int ret = open_new(host, path, o->overwrite, &file, &existed, err);
	if (ret)
		return ret;
	ret = create_in_file(loop, file, l, o, first_cluster, err);
	if (ret)
		cow_error_prefix(err, "%s", path);
	host->ops->close(file);
	if (ret && !existed)
		remove_file(host, path);
	return ret;
}

int cow_create(struct cow_host *host, struct cow_loop *loop, const char *path,
	       const struct cow_create_options *options, struct cow_error *err)
{
	struct cow_create_layout l;
	uint64_t size_bytes = 0;
	uint8_t *first_cluster = NULL;
	int ret = find_size(host, loop, path, options, &size_bytes, err);
	if (!ret)
		ret = cow_create_layout_init(&l, options, size_bytes, err);
	if (!ret) {
		first_cluster = cow_buf_alloc(cow_cluster_bytes(&l.header));
		if (!first_cluster)
			ret = cow_error_set(err, -ENOMEM, "out of memory");
	}
	if (!ret)
		ret = cow_create_first_cluster(&l, options, first_cluster, err);
	if (ret)
		cow_error_prefix(err, "%s", path);
	else
		ret = create_file(host, loop, path, &l, options, first_cluster, err);
	free(first_cluster);
	return ret;
}
