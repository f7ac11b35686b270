/* SPDX-License-Identifier: MIT */
/*
 * Blocking I/O for the control plane (open, create, check, snapshot): rounds of the loop until it
 * is done.
 */
#ifndef COW_BLOCKING_H
#define COW_BLOCKING_H

#include "engine/base/result.h"
#include "engine/loop/loop.h"

/* 0 or -errno. buf should come from cow_buf_alloc() when the file is direct; else it is bounced. */
COW_MUST_CHECK int cow_loop_read(struct cow_loop *loop, struct cow_file *file, uint64_t offset,
				 void *buf, uint64_t length);
COW_MUST_CHECK int cow_loop_write(struct cow_loop *loop, struct cow_file *file, uint64_t offset,
				  const void *buf, uint64_t length);
COW_MUST_CHECK int cow_loop_sync(struct cow_loop *loop, struct cow_file *file);
COW_MUST_CHECK int cow_loop_punch(struct cow_loop *loop, struct cow_file *file, uint64_t offset,
				  uint64_t length);
COW_MUST_CHECK int cow_loop_resize(struct cow_loop *loop, struct cow_file *file,
				   uint64_t size_bytes);

#endif
