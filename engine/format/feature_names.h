/* SPDX-License-Identifier: MIT */
/* The feature name table: what older programs print when they meet a feature they do not know. */
#ifndef COW_FEATURE_NAMES_H
#define COW_FEATURE_NAMES_H

#include <stddef.h>
#include <stdint.h>

#define COW_FEATURE_NAMES_BYTES (8u + 8u * 48u) /* of the extension */

/* The extension, of a version 3 header, at off of the first cluster; returns the offset behind it. */
size_t cow_feature_names_put(uint8_t *cluster, size_t off);

#endif
