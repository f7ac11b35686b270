/* SPDX-License-Identifier: MIT */
/* The size of a new image. */
#ifndef COW_CREATE_BACKING_H
#define COW_CREATE_BACKING_H

#include "engine/base/result.h"
#include "engine/create/create.h"

/* As asked for, or the backing file's. */
COW_MUST_CHECK int cow_create_find_size(struct cow_host *host, struct cow_loop *loop,
					const char *path, const struct cow_create_options *o,
					uint64_t *size_bytes, struct cow_error *err);

#endif
