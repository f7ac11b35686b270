/* SPDX-License-Identifier: MIT */
/* DISCARD and WRITE_ZEROES. */
#ifndef COW_ZERO_H
#define COW_ZERO_H

#include "engine/loop/task.h"

extern const struct cow_step cow_zero_step;

#endif
