/* SPDX-License-Identifier: MIT */
/*
 * One snapshot opened read-only, beside whoever writes the image. That is safe without the image's
 * lock: nothing that a snapshot leads to is ever written in place or moved, as long as the snapshot
 * is not deleted. Against that, readers hold a lock of their own, on a byte of the file that stands
 * for the snapshot's id; QEMU knows nothing of it.
 */
#ifndef COW_SNAPSHOT_SELECT_H
#define COW_SNAPSHOT_SELECT_H

#include "engine/base/result.h"
#include "engine/snapshot/snapshot.h"

/*
 * Finds the snapshot `text` (id or name), locks it, and makes h a header whose active disk it is:
 * size and L1 table. h is as it was loaded just now.
 */
COW_MUST_CHECK int cow_snapshot_select(struct cow_loop *loop, struct cow_file *file,
				       const char *text, struct cow_header *h,
				       struct cow_error *err);

/*
 * Until the file is closed nobody has it selected. -EBUSY: somebody has. Files of a simulated host
 * have no locks.
 */
COW_MUST_CHECK int cow_snapshot_lock_exclusive(struct cow_file *file,
					       const struct cow_snapshot *snapshot,
					       struct cow_error *err);
/* The change is over. */
void cow_snapshot_unlock(struct cow_file *file, const struct cow_snapshot *snapshot);

#endif
