/* SPDX-License-Identifier: MIT */
/* Files that are no qcow2 images, told by how they begin. */
#ifndef COW_OTHER_H
#define COW_OTHER_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"

/*
 * Without that magic: err says what the file looks like and what to do. Returns code. len >= 512.
 */
COW_MUST_CHECK int cow_format_refuse_other(const uint8_t *buf, size_t len, int code,
					   struct cow_error *err);

/*
 * What image a file is that begins like this, "a qcow2 image" for one; NULL: no image that is known,
 * so a raw disk, say.
 */
const char *cow_format_recognise(const uint8_t *buf, size_t len);

#endif
