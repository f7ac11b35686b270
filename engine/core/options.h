/* SPDX-License-Identifier: MIT */
/* What an image is opened with, and what its users see of it then. */
#ifndef COW_OPTIONS_H
#define COW_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/core/limits.h"

struct cow_file;
struct cow_secret;

/* An open file of a process that died, with its lock. */
struct cow_kept_file {
	int fd;
	const char *path; /* as it was opened */
};

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
	/*
	 * A memfd, > 0: metadata of a writable image lies there and outlives the process. What one that
	 * died has left in it is written first. The caller's; who opens the image must know that all
	 * I/O of that process has ended.
	 */
	int outlive_fd;
	/*
	 * The files of that process, in the order of cow_image_each_file(): taken instead of what
	 * names lead to by now, and without the checks that they have passed. The caller's: each is
	 * duplicated.
	 */
	const struct cow_kept_file *kept;
	size_t nr_kept;
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
	/*
	 * read-only: open it although what is only needed for writing is broken, or part of the L1
	 * table; what cannot be known of the disk fails when it is read
	 */
	bool salvage;
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

#endif
