/* SPDX-License-Identifier: MIT */
/* Images as the user names them, and what to say of one that is attached. */
#ifndef COW_NAMED_H
#define COW_NAMED_H

#include "engine/base/error.h"
#include "engine/base/result.h"

/*
 * The path of the image: name itself, or, where that is a device of ours, of the image behind it.
 * To be freed. NULL: a line has been said.
 */
char *cow_named_path(const char *name);

/*
 * One line for what went wrong with an image, that of err or of the error number ret. Of one that
 * cannot be opened because it is attached it names the device. Returns the exit status 1.
 */
int cow_named_fail(const char *image, int ret, const struct cow_error *err);

/* One line, with the device that may have the image by another name, if any. Returns 1. */
COW_MUST_CHECK int cow_named_fail_alike(const char *image, const char *text);

#endif
