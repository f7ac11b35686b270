/* SPDX-License-Identifier: MIT */
/* An L2 table of our own for the guest range of op->table.l1_idx; then op->map. */
#ifndef COW_L2TABLE_H
#define COW_L2TABLE_H

#include "engine/loop/task.h"

extern const struct cow_step cow_l2table_step;

#endif
