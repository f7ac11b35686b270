/* SPDX-License-Identifier: MIT */
/* What goes wrong with an edit, told in its error. */
#ifndef COW_EDIT_FAULT_H
#define COW_EDIT_FAULT_H

#include "engine/base/result.h"
#include "engine/edit/edit.h"

/* An error in the image: rule and offset. -EINVAL. */
COW_MUST_CHECK int cow_edit_corrupt(struct cow_edit *e, uint64_t off, const char *rule);
/* The result of a write: 0, or the error number ret, told. */
COW_MUST_CHECK int cow_edit_cannot_write(struct cow_edit *e, int ret);

#endif
