/* SPDX-License-Identifier: MIT */
/*
 * Opening the backing chain, read-only. The image names its backing file, and the image is hostile:
 * only plain file names, only under the top image's directory or a root that the administrator
 * named, no loops, COW_MAX_BACKING_DEPTH images at most. Formats are never probed.
 */
#ifndef COW_CHAIN_H
#define COW_CHAIN_H

#include "engine/image/state.h"

/* What the whole chain is opened with. */
struct cow_chain {
	struct cow_host *host;
	struct cow_loop *loop;
	const struct cow_open_options *options;
	char *top_dir; /* resolved directory of the top image */
	unsigned depth;
	struct {
		uint64_t dev, ino;
	} seen[COW_MAX_BACKING_DEPTH];
};

/*
 * Before a file is opened, whose lock we ourselves may hold: -ELOOP if it is part of the chain
 * already.
 */
int cow_chain_foresee(const struct cow_chain *chain, const char *path, struct cow_error *err);
/* Notes file as part of the chain: -ELOOP if it is already or the chain is too deep. */
int cow_chain_enter(struct cow_chain *chain, const struct cow_file *file, struct cow_error *err);

/*
 * Opens image's backing file, if it has one, and sets image->backing. cluster: the image's first
 * cluster.
 */
int cow_backing_open(struct cow_image *image, struct cow_chain *chain, const uint8_t *cluster,
		     struct cow_error *err);

/*
 * Opens the external data file, if the image has one, for writing if the image is: the one named in
 * the options (top image only), else the one that the image names, under the same rules as a
 * backing file. Sets image->data in any case.
 */
int cow_data_file_open(struct cow_image *image, struct cow_chain *chain, struct cow_error *err);

/* image.c: one image of a chain and, through cow_backing_open(), those below. */
int cow_image_open_in_chain(struct cow_chain *chain, const char *path, bool raw, bool top,
			    struct cow_image **out, struct cow_error *err);
void cow_image_free(struct cow_image *image);

#endif
