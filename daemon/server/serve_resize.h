/* SPDX-License-Identifier: MIT */
/*
 * Another size for the disk of an attached image. The kernel's device follows by the client, who may tell the
 * kernel so: see daemon/client/ask_resize.h.
 *
 *   {"cmd":"resize","bytes":N,"sign":-1|0|1,"shrink":BOOL}     {"ok":true,"size":N,"pause_ms":...}; the same with "ok":false
 */
#ifndef COW_SERVE_RESIZE_H
#define COW_SERVE_RESIZE_H

#include "daemon/server/job.h"
#include "engine/life/image.h"

/* A job of the device thread: the answer to job->request. block_bytes: of the device. */
void cow_serve_resize(struct cow_image *image, struct cow_loop *loop, uint32_t block_bytes,
		      struct cow_job *job);

#endif
