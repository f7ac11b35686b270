/* SPDX-License-Identifier: MIT */
/* The features and widths of a new image. */
#ifndef COW_CREATE_FEATURES_H
#define COW_CREATE_FEATURES_H

#include "engine/base/result.h"
#include "engine/create/create.h"
#include "engine/format/format.h"

/* Options -> the header's features and widths; checks the options against each other. */
COW_MUST_CHECK int cow_create_load_options(struct cow_header *h, const struct cow_create_options *o,
					   struct cow_error *err);
/* What is to be preallocated, including what other options imply. */
enum cow_preallocation cow_create_preallocation(const struct cow_create_options *o);

#endif
