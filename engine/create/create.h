/* SPDX-License-Identifier: MIT */
/* Makes a new qcow2 image. */
#ifndef COW_CREATE_H
#define COW_CREATE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/crypt/luks_format.h"
#include "engine/loop/loop.h"
#include "engine/crypt/luks.h"

struct cow_create_options {
	uint64_t size_bytes; /* 0 with has_size false: the backing file's */
	bool has_size;
	uint32_t cluster_bytes; /* 0: 65536 */
	uint32_t refcount_bits; /* 0: 16 */
	uint32_t version;	/* 0: 3; 2 for compat=0.10 */
	bool lazy_refcounts;
	bool extended_l2;	  /* 32 subclusters in a cluster */
	uint8_t compression_type; /* QCOW2_COMPRESSION_*: of what is stored compressed later */
	enum cow_preallocation preallocation;
	/* as it shall stand in the header; is made, NULL: guest data goes into the image */
	const char *data_file;
	bool data_file_raw; /* the data file is a raw image at any time; preallocates metadata */
	const char *backing_file;   /* as it shall stand in the header; NULL: none */
	const char *backing_format; /* "qcow2" or "raw"; needed with backing_file */
	bool unsafe;		    /* do not look at the backing file (size must be given) */
	bool overwrite;		    /* take an existing file, and clear it; the data file's too */
	const struct cow_luks_format *encrypt; /* NULL: not encrypted */
	const struct cow_secret *secret;       /* with encrypt */
	/* of the files, whatever the umask; without it new ones have 0600, less the umask */
	bool has_mode;
	unsigned mode;
	/* open and empty: the image is made there, and path only stands in messages */
	struct cow_file *into;
};

/*
 * Names of the backing file and the data file are relative to the new image's directory. Nothing is
 * left behind on failure (unless it was there before).
 */
COW_MUST_CHECK int cow_create(struct cow_host *host, struct cow_loop *loop, const char *path,
			      const struct cow_create_options *options, struct cow_error *err);

#endif
