/* SPDX-License-Identifier: MIT */
/* Several I/Os at once. See live.h. */
#ifndef COW_LIVE_IO_H
#define COW_LIVE_IO_H

#include "engine/base/result.h"
#include "engine/loop/io.h"
#include "engine/loop/loop.h"

#define COW_LIVE_BATCH 16u

struct cow_live_io {
	struct cow_io io;
	struct cow_live_ios *ios;
};

struct cow_live_ios {
	struct cow_loop *loop;
	struct cow_file *file;
	unsigned nr, pending;
	bool idle;
	int error;
	struct cow_live_io io[2 * COW_LIVE_BATCH];
};

void cow_live_ios_init(struct cow_live_ios *ios, struct cow_loop *loop, struct cow_file *file);
void cow_live_ios_add(struct cow_live_ios *ios, enum cow_io_kind kind, uint64_t off, void *buf,
		      uint64_t bytes);
/* Until all are done: 0 or the first error. */
COW_MUST_CHECK int cow_live_ios_wait(struct cow_live_ios *ios);

#endif
