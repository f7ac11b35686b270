/* SPDX-License-Identifier: MIT */
/* FLUSH, and the tail of FUA writes. */
#ifndef COW_FLUSH_H
#define COW_FLUSH_H

#include "engine/loop/task.h"

extern const struct cow_step cow_flush_step;

#endif
