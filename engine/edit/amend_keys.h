/* SPDX-License-Identifier: MIT */
/* Key slots of a closed LUKS image. The file is opened for writing and locked. Blocking. */
#ifndef COW_AMEND_KEYS_H
#define COW_AMEND_KEYS_H

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/crypt/luks_change.h"
#include "engine/loop/loop.h"

/*
 * As cow_luks_change(). -EROFS: corrupt or not closed properly; -ENOTSUP: has no key slots; -EINVAL:
 * something else of the image lies in the encryption header's clusters.
 */
COW_MUST_CHECK int cow_amend_keys(struct cow_loop *loop, struct cow_file *file,
				  const struct cow_luks_change *change, struct cow_error *err);

#endif
