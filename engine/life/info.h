/* SPDX-License-Identifier: MIT */
/* What an image says of itself, without opening anything it refers to. */
#ifndef COW_INFO_H
#define COW_INFO_H

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/format/format.h"
#include "engine/format/bitmap_directory.h"
#include "engine/loop/loop.h"
#include "engine/crypt/luks.h"

struct cow_info {
	struct cow_header header;
	struct cow_extensions ext;
	char backing_name[1024];
	struct cow_snapshot *snapshots; /* header.nr_snapshots */
	uint64_t file_bytes;		/* host file's length */
	uint64_t allocated_bytes;	/* host space in use (st_blocks * 512) */
	struct cow_bitmap *bitmaps;	/* ext.nr_bitmaps, NULL if there are none */
	struct cow_luks *luks; /* NULL if it is not LUKS, or of a kind that we do not know */
};

COW_MUST_CHECK int cow_info_load(struct cow_host *host, struct cow_loop *loop, const char *path,
				 struct cow_info *info, struct cow_error *err);
void cow_info_fini(struct cow_info *info);

#endif
