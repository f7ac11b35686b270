/* SPDX-License-Identifier: MIT */
/* See load.h. */
#include "engine/core/load.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/loop/blocking.h"

#define PROBE_BYTES 4096u
#define SNAPSHOTS_FIRST_BYTES (64u << 10)

static int cannot_read(struct cow_error *err, const char *what, int ret)
{
	return cow_error_set(err, ret, "%s: cannot read: %s", what, strerror(-ret));
}

/* *out: length bytes at offset, beyond the end of the file zeros. */
static int load_bytes(struct cow_loop *loop, struct cow_file *file, uint64_t offset,
		      uint64_t length, const char *what, uint8_t **out, struct cow_error *err)
{
	*out = cow_buf_alloc(length);
	if (!*out)
		return cow_error_set(err, -ENOMEM, "%s: out of memory", what);
	int ret = cow_loop_read(loop, file, offset, *out, length);
	if (ret) {
		free(*out);
		*out = NULL;
		return cannot_read(err, what, ret);
	}
	return 0;
}

enum strictness { STRICT, LENIENT };

static int load_header(struct cow_loop *loop, struct cow_file *file, enum strictness strictness,
		       struct cow_header *h, uint8_t **cluster, struct cow_error *err)
{
	uint8_t *probe;
	*cluster = NULL;
	int ret = load_bytes(loop, file, 0, PROBE_BYTES, "header", &probe, err);
	if (ret)
		return ret;
	if (strictness == LENIENT)
		ret = cow_header_decode_lenient(probe, PROBE_BYTES, h, err);
	else
		ret = cow_header_decode(probe, PROBE_BYTES, h, err);
	free(probe);
	if (!ret && strictness == STRICT)
		ret = cow_header_verify_file(h, file->size_bytes, err);
	if (ret)
		return ret;
	return load_bytes(loop, file, 0, cow_cluster_bytes(h), "first cluster", cluster, err);
}

int cow_load_header(struct cow_loop *loop, struct cow_file *file, struct cow_header *h,
		    uint8_t **cluster, struct cow_error *err)
{
	return load_header(loop, file, STRICT, h, cluster, err);
}

int cow_load_header_lenient(struct cow_loop *loop, struct cow_file *file, struct cow_header *h,
			    uint8_t **cluster, struct cow_error *err)
{
	return load_header(loop, file, LENIENT, h, cluster, err);
}

/* The length is not stored anywhere: try with more until it fits or the file or the limit ends. */
int cow_load_snapshots(struct cow_loop *loop, struct cow_file *file, const struct cow_header *h,
		       struct cow_snapshot **out, uint64_t *used_bytes, struct cow_error *err)
{
	uint64_t most =
		file->size_bytes > h->snapshots_off ? file->size_bytes - h->snapshots_off : 0;
	most = most < QCOW2_MAX_SNAPSHOT_TABLE_BYTES ? most : QCOW2_MAX_SNAPSHOT_TABLE_BYTES;
	*out = NULL;
	*used_bytes = 0;
	if (!h->nr_snapshots)
		return 0;
	for (uint64_t len = SNAPSHOTS_FIRST_BYTES;; len *= 4) {
		uint8_t *table;
		len = len < most ? len : most;
		int ret = load_bytes(loop, file, h->snapshots_off, len, "snapshot table", &table,
				     err);
		if (ret)
			return ret;
		ret = cow_snapshots_decode(table, len, h->snapshots_off, h, out, used_bytes,
					   len == most ? err : NULL);
		free(table);
		if (ret != -EINVAL || len == most)
			return ret;
	}
}

int cow_load_bitmaps(struct cow_loop *loop, struct cow_file *file, const struct cow_header *h,
		     const struct cow_extensions *ext, struct cow_bitmap **out,
		     struct cow_error *err)
{
	uint8_t *dir;
	*out = NULL;
	if (!ext->has_bitmaps)
		return 0;
	if (ext->bitmap_directory_off > file->size_bytes ||
	    ext->bitmap_directory_bytes > file->size_bytes - ext->bitmap_directory_off)
		return cow_error_set(err, -EINVAL,
				     "bitmap directory at offset %" PRIu64
				     ": lies past the end of the file",
				     ext->bitmap_directory_off);
	int ret = load_bytes(loop, file, ext->bitmap_directory_off, ext->bitmap_directory_bytes,
			     "bitmap directory", &dir, err);
	if (ret)
		return ret;
	ret = cow_bitmaps_decode(dir, h, ext, out, err);
	free(dir);
	return ret;
}

static int disk_size(struct cow_loop *loop, struct cow_file *file, const char *format,
		     uint64_t *size_bytes, struct cow_error *err)
{
	if (strcmp(format, "qcow2")) {
		*size_bytes = (file->size_bytes + 511) & ~511ull;
		return 0;
	}
	uint8_t *buf = cow_buf_alloc(PROBE_BYTES);
	if (!buf)
		return cow_error_no_memory(err);
	struct cow_header h;
	int ret = cow_loop_read(loop, file, 0, buf, PROBE_BYTES);
	if (ret)
		cow_error_set(err, ret, "header: cannot read: %s", strerror(-ret));
	else
		ret = cow_header_decode(buf, PROBE_BYTES, &h, err);
	if (!ret)
		*size_bytes = h.size_bytes;
	free(buf);
	return ret;
}

int cow_load_disk_size(struct cow_host *host, struct cow_loop *loop, const char *path,
		       const char *format, uint64_t *size_bytes, struct cow_error *err)
{
	struct cow_file *file;
	/* Only its size is wanted, and that of an image in use is known too. */
	int ret = host->ops->open(host, path, COW_OPEN_BUFFERED | COW_OPEN_NO_LOCK, &file, err);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot open: %s", path, strerror(-ret));
	ret = disk_size(loop, file, format, size_bytes, err);
	if (ret)
		cow_error_prefix(err, "%s", path);
	host->ops->close(file);
	return ret;
}
