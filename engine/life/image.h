/* SPDX-License-Identifier: MIT */
/*
 * An opened qcow2 image: the engine's public face, with request/queue.h for the requests on it.
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
#include "engine/core/options.h"
#include "engine/host/health.h"
#include "engine/loop/loop.h"

struct cow_image;

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

#endif
