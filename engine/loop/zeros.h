/* SPDX-License-Identifier: MIT */
/* Space of a file, ahead of what will be written there. Blocking. */
#ifndef COW_ZEROS_H
#define COW_ZEROS_H

#include "engine/base/result.h"
#include "engine/loop/loop.h"

/* 0 or -errno. */
COW_MUST_CHECK int cow_zeros_write(struct cow_loop *loop, struct cow_file *file, uint64_t off,
				   uint64_t bytes);
/*
 * Reserves the host's space without writing it, where the host can; else writes zeros. What is there
 * reads as before, behind the file's end as zeros.
 */
COW_MUST_CHECK int cow_zeros_reserve(struct cow_loop *loop, struct cow_file *file, uint64_t off,
				     uint64_t bytes);

#endif
