/* SPDX-License-Identifier: MIT */
/* WRITE, and what writes zeros: from op->cursor to op->limit, then op->at_limit. */
#ifndef COW_WRITE_H
#define COW_WRITE_H

#include "engine/loop/task.h"

extern const struct cow_step cow_write_step_begin;
extern const struct cow_step cow_write_step_map;
/* All is submitted: waits for it, and for a flush with FUA; then the op ends. */
extern const struct cow_step cow_write_step_drain;

#endif
