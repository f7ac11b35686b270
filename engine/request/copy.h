/* SPDX-License-Identifier: MIT */
/* Copy on write at op->cursor, as op->copy says; then op->map. */
#ifndef COW_COPY_H
#define COW_COPY_H

#include "engine/loop/task.h"

extern const struct cow_step cow_copy_step;

#endif
