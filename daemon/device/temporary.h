/* SPDX-License-Identifier: MIT */
/*
 * attach --temporary: the image stays as it is, what is written goes to an overlay that nobody sees
 * and that is gone at the end.
 */
#ifndef COW_TEMPORARY_H
#define COW_TEMPORARY_H

#include "engine/base/result.h"
#include "engine/life/image.h"

/*
 * Opens an overlay of the image at path (absolute) instead of the image. It is held by its
 * descriptor and has no name, so nobody can put another in its place, and its space goes back when
 * the daemon ends, however it ends. It lies in $TMPDIR, by default /var/tmp.
 */
COW_MUST_CHECK int cow_temporary_open(struct cow_loop *loop, const char *path,
				      const struct cow_open_options *options,
				      struct cow_image **out, struct cow_error *err);

#endif
