/* SPDX-License-Identifier: MIT */
/* The tables of a new image. */
#ifndef COW_CREATE_TABLES_H
#define COW_CREATE_TABLES_H

#include "engine/base/result.h"
#include "engine/create/create_layout.h"

/*
 * Everything but the first cluster, into files that read as zeros (image, and data when it is
 * external: else NULL).
 */
COW_MUST_CHECK int cow_create_write_tables(struct cow_loop *loop, struct cow_file *image,
					   struct cow_file *data, const struct cow_create_layout *l,
					   const struct cow_create_options *o,
					   struct cow_error *err);

#endif
