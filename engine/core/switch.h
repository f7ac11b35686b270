/* SPDX-License-Identifier: MIT */
/* The one write that makes a change of the whole image take effect. Blocking; for the control plane. */
#ifndef COW_SWITCH_H
#define COW_SWITCH_H

#include "engine/base/result.h"
#include "engine/loop/loop.h"

#define COW_SWITCH_BYTES 512u

/*
 * Makes durable all that the new header leads to, then writes it and makes it durable. 0;
 * -ENOTRECOVERABLE: nobody knows which header is on disk; another error (of the host, or -ENOMEM):
 * the host refused the write, and the old header is still there. *begun: it was tried to write it.
 */
COW_MUST_CHECK int cow_switch_header(struct cow_loop *loop, struct cow_file *file,
				     const uint8_t sector[COW_SWITCH_BYTES], bool *begun);

#endif
