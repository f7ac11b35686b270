/* SPDX-License-Identifier: MIT */
#ifndef COW_SYNC_ALL_H
#define COW_SYNC_ALL_H

#include "engine/base/error.h"
#include "engine/base/result.h"

/*
 * Writes every file system of the machine back: all that a confined process can do. One of them may
 * be stuck: -ETIMEDOUT after limit_s seconds, with a text.
 */
COW_MUST_CHECK int cow_sync_all(unsigned limit_s, struct cow_error *err);

#endif
