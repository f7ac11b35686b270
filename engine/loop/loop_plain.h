/* SPDX-License-Identifier: MIT */
/* The loop over plain system calls, for tools that do one thing after the other. */
#ifndef COW_LOOP_PLAIN_H
#define COW_LOOP_PLAIN_H

#include "engine/base/result.h"
#include "engine/loop/loop.h"

COW_MUST_CHECK int cow_loop_plain_new(struct cow_loop **out);

#endif
