/* SPDX-License-Identifier: MIT */
/*
 * What an image holds is written into its backing file, or into one further below.
 *
 * Whatever dies meanwhile, what the image shows stays the same: it goes on hiding all that is written
 * below it, until that is durable; then, if it is to be emptied, that is one write of its header.
 */
#ifndef COW_BACKING_COMMIT_H
#define COW_BACKING_COMMIT_H

#include "engine/base/result.h"
#include "engine/tool/disk.h"
#include "engine/tool/rate.h"
#include "engine/tool/walk.h"

struct cow_backing_commit {
	const struct cow_disk_spec *image; /* qcow2, read-only */
	const char *base;		   /* of its chain; NULL: its backing file */
	bool keep;			   /* the image is not emptied; with base it never is */
	unsigned nr_threads;		   /* 0: the caller's, on the loop */
	struct cow_rate *rate;		   /* of what is written below; NULL: no limit */
	const atomic_bool *cancel;
	struct cow_progress progress;
};

/*
 * 0 or -errno with a text. Locks the image and its base as their writer and those between as a reader.
 */
COW_MUST_CHECK int cow_backing_commit(struct cow_host *host, struct cow_loop *loop,
				      const struct cow_backing_commit *c, struct cow_error *err);

#endif
