/* SPDX-License-Identifier: MIT */
/* The first cluster of a new image. */
#ifndef COW_CREATE_HEADER_H
#define COW_CREATE_HEADER_H

#include "engine/base/result.h"
#include "engine/create/create_layout.h"

/*
 * Header, extensions and backing file name -> the first cluster (zeroed by the caller). Sets the
 * name's place in l->header.
 */
COW_MUST_CHECK int cow_create_first_cluster(struct cow_create_layout *l,
					    const struct cow_create_options *options,
					    uint8_t *cluster, struct cow_error *err);

#endif
