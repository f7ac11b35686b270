/* SPDX-License-Identifier: MIT */
#include "engine/edit/edit_fault.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

int cow_edit_corrupt(struct cow_edit *e, uint64_t off, const char *rule)
{
	return cow_error_set(e->err, -EINVAL,
			     "offset %" PRIu64
			     ": %s: repair the image with cowblk check --repair all",
			     off, rule);
}

int cow_edit_cannot_write(struct cow_edit *e, int ret)
{
	return ret ? cow_error_set(e->err, ret, "cannot write: %s", strerror(-ret)) : 0;
}
