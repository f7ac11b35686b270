/* SPDX-License-Identifier: MIT */
/* READ. */
#ifndef COW_READ_H
#define COW_READ_H

#include "engine/loop/task.h"

extern const struct cow_step cow_read_step;

#endif
