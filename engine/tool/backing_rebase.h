/* SPDX-License-Identifier: MIT */
/*
 * An image gets another backing file, or none, and shows what it did: where the two differ, it takes
 * what the old one has.
 *
 * What is written into the image meanwhile is what it shows there already, and the new name is one
 * write of the header, after all that is durable: whatever dies in between, the image shows the same.
 */
#ifndef COW_BACKING_REBASE_H
#define COW_BACKING_REBASE_H

#include "engine/base/result.h"
#include "engine/tool/disk.h"
#include "engine/tool/walk.h"

struct cow_backing_rebase {
	const struct cow_disk_spec *image; /* qcow2 */
	const char *base;		   /* as it shall stand in the header; NULL: none */
	const char *format;		   /* with base: qcow2 or raw */
	bool unsafe;	     /* only the name: the caller knows what the image shows then */
	unsigned nr_threads; /* 0: the caller's, on the loop */
	const atomic_bool *cancel;
	struct cow_progress progress;
};

COW_MUST_CHECK int cow_backing_rebase(struct cow_host *host, struct cow_loop *loop,
				      const struct cow_backing_rebase *r, struct cow_error *err);

#endif
