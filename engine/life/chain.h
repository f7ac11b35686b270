/* SPDX-License-Identifier: MIT */
/*
 * Opening the files of an image: itself, its data file, its backing chain. The image names them, and
 * the image is hostile: only plain file names, only below a folder that is held open, no loops,
 * COW_MAX_BACKING_DEPTH images at most. Formats are never probed.
 *
 * What may be read lies below the top image's own folder or a root that the administrator named.
 * Below the own folder only regular files are opened, and there is no own folder for an image on a
 * block device or in "/". What is written to, a data file, the administrator has named or has given
 * a root for. All checks are on the descriptor that is used afterwards, before it is locked.
 */
#ifndef COW_CHAIN_H
#define COW_CHAIN_H

#include "engine/base/result.h"
#include "engine/host/root.h"
#include "engine/image/state.h"

/* What the whole chain is opened with. */
struct cow_chain {
	struct cow_host *host;
	struct cow_loop *loop;
	const struct cow_open_options *options;
	struct cow_root *own;	   /* the folder of the image that was named; NULL: none */
	struct cow_root **backing; /* options->backing_roots, opened */
	struct cow_root **data;	   /* options->data_roots, opened */
	/* the image that was named, when it lies below an overlay: opened, not yet in the chain */
	struct cow_file *below;
	const struct cow_file *named; /* the image that was named */
	unsigned nr_images;	      /* so far: the next one's depth */
	size_t nr_taken;	      /* of options->kept */
	uint64_t cache_left;	      /* of the metadata cache, for the images not opened yet */
	struct {
		uint64_t dev, ino;
	} seen[2 * COW_MAX_BACKING_DEPTH]; /* each image may have a data file */
	unsigned nr_seen;
};

COW_MUST_CHECK int cow_chain_init(struct cow_chain *chain, struct cow_error *err);
void cow_chain_fini(struct cow_chain *chain);

/*
 * Opens the image that the caller named, and its folder as the chain's own. Not yet in the chain nor
 * locked.
 */
COW_MUST_CHECK int cow_chain_open_named(struct cow_chain *chain, const char *path, unsigned flags,
					struct cow_file **out, struct cow_error *err);

/* Counts one image more: its depth, 0 is the top. -ELOOP: too many. */
COW_MUST_CHECK int cow_chain_count(struct cow_chain *chain, const char *path, unsigned *depth,
				   struct cow_error *err);

/*
 * Notes file, an image or its data file, as part of the chain: -ELOOP if it is already. Then locks it,
 * unless flags has NO_LOCK.
 */
COW_MUST_CHECK int cow_chain_enter(struct cow_chain *chain, struct cow_file *file, unsigned flags,
				   struct cow_error *err);

/* A file of the chain that is not entered yet. */
struct cow_chain_file {
	struct cow_file *file; /* opened without its lock */
	bool raw;
};

/* Opens image's backing file; NULL: it has none. cluster: the image's first cluster. */
COW_MUST_CHECK int cow_chain_open_backing(struct cow_chain *chain, struct cow_image *image,
					  const uint8_t *cluster, struct cow_chain_file *out,
					  struct cow_error *err);

/*
 * Opens the external data file, if the image has one, for writing if the image is: the one named in
 * the options (for the image that was named), else the one that the image names. Sets image->data in
 * any case. To be written to it must be the caller's or the image's owner's, and not begin as an
 * image of its own.
 */
COW_MUST_CHECK int cow_chain_open_data(struct cow_chain *chain, struct cow_image *image,
				       struct cow_error *err);

enum cow_chain_place { COW_CHAIN_TOP, COW_CHAIN_BELOW };

/* The flags of an image of the chain. */
unsigned cow_chain_flags(const struct cow_chain *chain, enum cow_chain_place place);
/* The top image's snapshot that is asked for instead of its active disk, or NULL. */
const char *cow_chain_snapshot(const struct cow_chain *chain, enum cow_chain_place place);

#endif
