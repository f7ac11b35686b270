/* SPDX-License-Identifier: MIT */
/* Host clusters for a disk that becomes larger, ahead of what will be written there. */
#ifndef COW_RESIZE_FILL_H
#define COW_RESIZE_FILL_H

#include "engine/base/result.h"
#include "engine/edit/edit.h"

/*
 * Maps every cluster that lies wholly behind the disk's end, up to size_bytes; e->l1 reaches so far. The
 * clusters are new ones at the file's end, which reads as zeros there; where it does not (a device,
 * encryption) the entries say so. -ENOTSUP: version 2 cannot say so of an encrypted one.
 */
COW_MUST_CHECK int cow_resize_fill(struct cow_edit *e, uint64_t size_bytes,
				   enum cow_preallocation how);

#endif
