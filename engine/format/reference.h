/* SPDX-License-Identifier: MIT */
/* Names of other files, as they stand in a header: of a backing file, of a data file. */
#ifndef COW_REFERENCE_H
#define COW_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/format/header.h"

/* "nbd:...", "json:{...}", "http://...": QEMU takes what stands before a colon for a protocol. */
bool cow_reference_has_protocol(const char *name);

/*
 * A name as written in the image -> a path: relative names from the image's own directory. To be
 * freed; NULL: out of memory.
 */
char *cow_reference_resolve(const char *image_path, const char *name);

/* Copy the backing file's name, NUL-terminated, into name[1024]. "" if none. */
COW_MUST_CHECK int cow_reference_backing_name(const uint8_t *cluster, const struct cow_header *h,
					      char name[1024], struct cow_error *err);

#endif
