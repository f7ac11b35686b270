/* SPDX-License-Identifier: MIT */
/* Names of other files, as they stand in a header: of a backing file, of a data file. */
#ifndef COW_REFERENCE_H
#define COW_REFERENCE_H

#include <stdbool.h>

/* "nbd:...", "json:{...}", "http://...": QEMU takes what stands before a colon for a protocol. */
bool cow_reference_has_protocol(const char *name);

/*
 * A name as written in the image -> a path: relative names from the image's own directory. To be
 * freed; NULL: out of memory.
 */
char *cow_reference_resolve(const char *image_path, const char *name);

#endif
