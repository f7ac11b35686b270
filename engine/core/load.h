/* SPDX-License-Identifier: MIT */
/*
 * Reads the parts of an image whose length is known only while they are decoded. Blocking; for the
 * control plane.
 */
#ifndef COW_LOAD_H
#define COW_LOAD_H

#include "engine/base/result.h"
#include "engine/format/format.h"
#include "engine/format/bitmap_directory.h"
#include "engine/loop/loop.h"

/*
 * The header, verified against the file's length too, and the first cluster, zero-padded where the
 * file is shorter; *cluster is free()d by the caller.
 */
COW_MUST_CHECK int cow_load_header(struct cow_loop *loop, struct cow_file *file,
				   struct cow_header *h, uint8_t **cluster, struct cow_error *err);
/* For check and repair: see cow_header_decode_lenient(). */
COW_MUST_CHECK int cow_load_header_lenient(struct cow_loop *loop, struct cow_file *file,
					   struct cow_header *h, uint8_t **cluster,
					   struct cow_error *err);

/*
 * The snapshot table: *out has h->nr_snapshots entries (cow_snapshots_free), *used_bytes is the
 * table's length.
 */
COW_MUST_CHECK int cow_load_snapshots(struct cow_loop *loop, struct cow_file *file,
				      const struct cow_header *h, struct cow_snapshot **out,
				      uint64_t *used_bytes, struct cow_error *err);

/* The bitmap directory: *out has ext->nr_bitmaps entries (free), NULL if the image has none. */
COW_MUST_CHECK int cow_load_bitmaps(struct cow_loop *loop, struct cow_file *file,
				    const struct cow_header *h, const struct cow_extensions *ext,
				    struct cow_bitmap **out, struct cow_error *err);

/*
 * The disk's size of the image at path, rounded up to sectors, also of one in use; format: "qcow2", or
 * else it is a raw one.
 */
COW_MUST_CHECK int cow_load_disk_size(struct cow_host *host, struct cow_loop *loop,
				      const char *path, const char *format, uint64_t *size_bytes,
				      struct cow_error *err);

#endif
