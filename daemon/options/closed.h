/* SPDX-License-Identifier: MIT */
/* One thing done to the file of a closed image, by its only user. */
#ifndef COW_CLOSED_H
#define COW_CLOSED_H

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/host/file.h"
#include "engine/loop/loop.h"

/*
 * Opens the image with flags, calls run, closes. An error is told, with the image's name. Returns the
 * exit status.
 */
COW_MUST_CHECK int cow_closed_run(const char *image, unsigned flags,
				  int (*run)(const void *ctx, struct cow_loop *loop,
					     struct cow_file *file, struct cow_error *err),
				  const void *ctx);

#endif
