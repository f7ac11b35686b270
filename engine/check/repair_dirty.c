/* SPDX-License-Identifier: MIT */
#include "engine/check/repair_dirty.h"

#include <errno.h>

#include "engine/base/log.h"
#include "engine/check/check.h"

int cow_repair_dirty(struct cow_loop *loop, struct cow_file *file, const char *path,
		     struct cow_error *err)
{
	const struct cow_check_options options = { .repair = COW_REPAIR_ALL,
						   .keep_snapshots = true };
	struct cow_check_result result = { 0 };
	cow_log(COW_LOG_INFO, "%s: was not closed properly: rebuilding refcounts", path);
	return cow_check_file(loop, file, &options, &result, err);
}

int cow_repair_dirty_verify(const struct cow_header *h, struct cow_error *err)
{
	if (!(h->incompatible & QCOW2_INCOMPAT_DIRTY))
		return 0;
	return cow_error_set(err, -EROFS,
			     "the image is dirty and could not be repaired: see cowblk check");
}
