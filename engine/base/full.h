/* SPDX-License-Identifier: MIT */
/* What a host answers that has no room: a full file system, a quota, the longest that a file may be. */
#ifndef COW_FULL_H
#define COW_FULL_H

#include <errno.h>
#include <stdbool.h>

/* error: -errno of a write, a hole or a change of length. A sync's is never this, whatever it says. */
static inline bool cow_full_is(int error)
{
	return error == -ENOSPC || error == -EDQUOT || error == -EFBIG;
}

/* One word for all of them, for whoever waits and is told why; other errors stay as they are. */
static inline int cow_full_fold(int error)
{
	return cow_full_is(error) ? -ENOSPC : error;
}

#endif
