/* SPDX-License-Identifier: MIT */
/*
 * An opened qcow2 image and the requests on it: the engine's public face (with create.h, check.h,
 * info.h).
 *
 * Life: cow_image_open() on the control thread; cow_queue_new() per queue thread; requests; all
 * requests finished; cow_queue_free() for each; cow_image_close(). Everything except requests is
 * control plane: blocking.
 */
#ifndef COW_IMAGE_H
#define COW_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/core/limits.h"
#include "engine/crypt/secret.h"
#include "engine/host/health.h"
#include "engine/loop/loop.h"

struct cow_image;
struct cow_queue;
struct cow_op;

enum cow_detect_zeroes { COW_DETECT_ZEROES_OFF, COW_DETECT_ZEROES_ON, COW_DETECT_ZEROES_UNMAP };

struct cow_open_options {
	bool writable;
	/*
	 * The image that is named must be this file, of what cow_image_identity() says; 0: it may be
	 * any
	 */
	uint64_t file_dev, file_ino;
	bool no_lock;	 /* take no image lock (read-only use of an image in use) */
	bool no_backing; /* do not open the backing file (check, info) */
	bool no_discard; /* freed clusters stay allocated on the host (no punching) */
	bool buffered;	 /* never O_DIRECT */
	bool compress;	 /* store new full clusters compressed where that saves space */
	enum cow_detect_zeroes detect_zeroes;
	uint64_t
		cache_bytes; /* metadata cache of the whole chain; 0: by the images, at most 32 MiB */
	uint64_t reserve_bytes; /* a queue's largest reservation of host clusters; 0: 16 MiB */
	const struct cow_limits *limits; /* for tests and the simulator; NULL: the defaults */
	/*
	 * Caches are small until they would be of use: then any thread calls this, without locks,
	 * to have another call cow_image_grow() (memory.h). NULL: they have all their room at
	 * once, and take memory as it is touched.
	 */
	void (*want_memory)(void *ctx);
	void *want_memory_ctx;
	bool keep_memory; /* all of it is taken now and kept: nothing has to grow later */
	/* the external data file, instead of the name in the image; allowed anywhere */
	const char *data_file;
	bool data_is_raw; /* write to the data file even if it begins as an image of its own */
	/*
	 * The image takes no writes, this does: a new image with the other as its backing file,
	 * opened with cow_system_adopt() or the like. The image's from here on, also on failure.
	 */
	struct cow_file *overlay;
	/* passphrases of encrypted images of the chain, wiped by the caller */
	const struct cow_secret *const *secrets;
	size_t nr_secrets;
	bool write_legacy_aes; /* writable although encrypted by crypt_method 1, which is weak */
	/* read-only: this internal snapshot (id or name) instead of the active disk */
	const char *snapshot;
	/* directories that files that are only read may lie in, besides the image's own */
	const char *const *backing_roots;
	size_t nr_backing_roots;
	/* directories that data files may lie in that are written to */
	const char *const *data_roots;
	size_t nr_data_roots;
};

/* Constant while the image is open. */
struct cow_image_geometry {
	uint64_t size_bytes; /* virtual disk, multiple of 512 */
	uint32_t cluster_bytes;
	uint32_t version;
	bool writable;
};

/*
 * Opens the image and its backing chain. A dirty image opened writable is repaired first. Errors:
 * -EINVAL (not qcow2, broken header; the text names rule and offset), -ENOTSUP (a feature by name),
 * -EBUSY (in use), -EPERM (a file outside the roots, or a data file that must not be written to), -ELOOP (backing loop or too deep),
 * -EROFS (corrupt bit set and writable asked), or the host's.
 */
COW_MUST_CHECK int cow_image_open(struct cow_host *host, struct cow_loop *loop, const char *path,
				  const struct cow_open_options *options, struct cow_image **out,
				  struct cow_error *err);

/*
 * Writes all metadata back, returns unused reservations, trims the file, closes. No request may be
 * running and all queues are freed. The image is gone whatever it returns; an error means that
 * something could not be made durable.
 */
COW_MUST_CHECK int cow_image_close(struct cow_image *image, struct cow_loop *loop,
				   struct cow_error *err);

const struct cow_image_geometry *cow_image_geometry(const struct cow_image *image);
/* Of the image that was named, absolute and without links; lives as long as it. */
const char *cow_image_path(const struct cow_image *image);
/*
 * Which file that image is, whatever names it has by now: st_dev and st_ino; of a block device its
 * number and UINT64_MAX.
 */
void cow_image_identity(const struct cow_image *image, uint64_t *dev, uint64_t *ino);
/* NULL while sound; else one line why the image is failed for writing. */
const char *cow_image_failure(const struct cow_image *image);

/* How the host has treated the files of the whole chain since the image was opened. */
struct cow_image_health {
	uint64_t nr_errors[COW_HEALTH_NR];
	struct cow_health_error last; /* error 0: none */
	const char *last_file;	      /* path, lives as long as the image; NULL: none */
	/* discards are taken, but the host was found to give no space back */
	bool cannot_punch;
	/* what is discarded goes back to the host, as far as is known: its first refusal tells */
	bool gives_space_back;
};

/* Any thread. */
void cow_image_health(const struct cow_image *image, struct cow_image_health *out);

/* Every file of the whole chain that is open, the image's own first. */
void cow_image_each_file(const struct cow_image *image,
			 void (*each)(void *ctx, struct cow_file *file), void *ctx);

/* ---- requests ---- */

/*
 * A queue's ops run on loop's thread. nr_ops requests may be in flight. At most COW_MAX_QUEUES per
 * image.
 */
COW_MUST_CHECK int cow_queue_new(struct cow_image *image, struct cow_loop *loop, unsigned nr_ops,
				 struct cow_queue **out);
/*
 * Owner thread, now and then after a burst: gives back the memory of buffers that are not in use, but
 * for one of each kind.
 */
void cow_queue_rest(struct cow_queue *queue);
/* All its ops are finished. Keeps the queue's reservation in the image until close. */
void cow_queue_free(struct cow_queue *queue);

enum cow_op_kind { COW_OP_READ, COW_OP_WRITE, COW_OP_FLUSH, COW_OP_DISCARD, COW_OP_WRITE_ZEROES };

enum cow_op_flags {
	COW_OP_FUA = 1 << 0,	 /* WRITE, WRITE_ZEROES: durable before it completes */
	COW_OP_NOUNMAP = 1 << 1, /* WRITE_ZEROES: keep the clusters allocated */
};

typedef void cow_op_done_fn(void *ctx, int result);

/*
 * Starts request idx (0 <= idx < nr_ops, not in flight) on the queue; owner thread only. offset and
 * length are multiples of
 * 512 inside the disk (checked: else -EINVAL). buf: 512-aligned memory of length bytes for READ and WRITE, the caller's until
 * done. done(ctx, 0 or -errno) runs on the queue's thread, possibly before this call returns.
 * Errors that callers distinguish: -ENOSPC (host full), -EROFS (read-only or failed for writing),
 * -EIO.
 */
void cow_queue_submit(struct cow_queue *queue, unsigned idx, enum cow_op_kind kind, unsigned flags,
		      uint64_t offset, uint64_t length, void *buf, cow_op_done_fn *done, void *ctx);

/* Blocking form for tools and tests: uses its own op slot, any length. */
COW_MUST_CHECK int cow_queue_do(struct cow_queue *queue, enum cow_op_kind kind, unsigned flags,
				uint64_t offset, uint64_t length, void *buf);

#endif
